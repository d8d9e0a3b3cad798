#include "runtime/server/descriptor_limit.h"

#include <sys/resource.h>

#include <algorithm>
#include <limits>

namespace tandem::server {
namespace {

// What a process has if the system does not say.
constexpr int kUnknown = 1024;

int Clamped(rlim_t limit) {
  return static_cast<int>(
      std::min<rlim_t>(limit, static_cast<rlim_t>(std::numeric_limits<int>::max())));
}

}  // namespace

int RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    // Refused: the old limit stays, and the number of connections follows it.
    (void)setrlimit(RLIMIT_NOFILE, &limit);
  }
  return DescriptorLimit();
}

int DescriptorLimit() {
  rlimit limit{};
  return getrlimit(RLIMIT_NOFILE, &limit) == 0 ? Clamped(limit.rlim_cur) : kUnknown;
}

}  // namespace tandem::server
