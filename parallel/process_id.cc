#include "parallel/process_id.h"

#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace tandem::parallel {

std::string ThisProcess() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char space[64] = {};  // of process ids
  const ssize_t length = readlink("/proc/self/ns/pid", space, sizeof(space));
  return absl::StrCat(boot, " ", std::string(space, length > 0 ? length : 0), " ", getpid());
}

}  // namespace tandem::parallel
