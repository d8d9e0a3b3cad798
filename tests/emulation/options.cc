#include "tests/emulation/options.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <string_view>

namespace tandem::emulation {
namespace {

// Which of the words the variable has; the first where it is not set.
size_t WordOf(const char* variable, std::initializer_list<std::string_view> words) {
  const char* const value = std::getenv(variable);
  if (value == nullptr) return 0;
  const auto* const found = std::find(words.begin(), words.end(), std::string_view(value));
  if (found != words.end()) return found - words.begin();
  std::fprintf(stderr, "%s: found '%s', expected one of", variable, value);
  for (const std::string_view word : words) std::fprintf(stderr, " %s", word.data());
  std::fprintf(stderr, "\n");
  std::abort();
}

}  // namespace

const Options& GetOptions() {
  static const Options options = [] {
    const size_t streams = WordOf("TANDEM_EMULATION_STREAMS", {"late", "early", "ahead"});
    return Options{.reverse = WordOf("TANDEM_EMULATION_THREADS", {"forward", "reverse"}) == 1,
                   .early = streams == 1,
                   .ahead = streams == 2};
  }();
  return options;
}

}  // namespace tandem::emulation
