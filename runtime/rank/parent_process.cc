#include "runtime/rank/parent_process.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"

namespace tandem::rank {

bool StartedByLauncher() { return std::getenv(kParentVariable) != nullptr; }

absl::Status DieWithParent() {
  if (!StartedByLauncher()) return absl::OkStatus();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // If the parent died before this call, this process has another parent now. On other hosts the
  // parent is MPI's daemon, whose pid the launcher cannot know.
  const char* local = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const char* all = std::getenv("OMPI_COMM_WORLD_SIZE");
  const bool one_host = local == nullptr || all == nullptr || std::strcmp(local, all) == 0;
  int expected = 0;
  if (one_host && absl::SimpleAtoi(std::getenv(kParentVariable), &expected) &&
      getppid() != expected) {
    return absl::UnavailableError("the launcher of this rank has died");
  }
  return absl::OkStatus();
}

}  // namespace tandem::rank
