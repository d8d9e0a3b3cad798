#include "tests/emulation/options.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace tandem::emulation {
namespace {

bool IsSecond(const char* variable, std::string_view first, std::string_view second) {
  const char* const value = std::getenv(variable);
  if (value == nullptr || value == first) return false;
  if (value == second) return true;
  std::fprintf(stderr, "%s: found '%s', expected %s or %s\n", variable, value, first.data(),
               second.data());
  std::abort();
}

}  // namespace

const Options& GetOptions() {
  static const Options options = {
      .reverse = IsSecond("TANDEM_EMULATION_THREADS", "forward", "reverse"),
      .early = IsSecond("TANDEM_EMULATION_STREAMS", "late", "early")};
  return options;
}

}  // namespace tandem::emulation
