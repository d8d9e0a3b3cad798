#include "launcher/world/local_ranks.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace tandem::launcher {
namespace {

constexpr std::chrono::milliseconds kSoonest{100};
constexpr std::chrono::seconds kLatest{5};

// The number of ranks on this host, from the environment of the rank with this pid. 0 for other
// processes of mpirun, such as ssh, and for a rank that is dying or dead.
int LocalSize(pid_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/environ"));
  const std::string environment(std::istreambuf_iterator<char>(file), {});
  for (absl::string_view variable : absl::StrSplit(environment, '\0')) {
    int size = 0;
    if (absl::ConsumePrefix(&variable, "OMPI_COMM_WORLD_LOCAL_SIZE=") &&
        absl::SimpleAtoi(variable, &size)) {
      return size;
    }
  }
  return 0;
}

}  // namespace

void LocalRanks::Look() {
  int alive = 0;
  std::error_code error;  // mpirun may end meanwhile
  const std::string tasks = absl::StrCat("/proc/", mpirun_, "/task");
  for (std::filesystem::directory_iterator task(tasks, error), end; !error && task != end;
       task.increment(error)) {
    std::ifstream children(task->path() / "children");
    for (pid_t child = 0; children >> child;) {
      const int size = LocalSize(child);
      if (size > 0) ++alive;
      started_ = std::max(started_, size);
    }
  }
  const Clock::time_point now = Clock::now();
  if (alive >= started_) {
    missing_since_.reset();
  } else if (!missing_since_.has_value()) {
    missing_since_ = now;
  }
  next_look_ = now + std::clamp<Clock::duration>((now - start_) / 10, kSoonest, kLatest);
}

LocalRanks::Clock::duration LocalRanks::missing_for() const {
  return missing_since_.has_value() ? Clock::now() - *missing_since_ : Clock::duration::zero();
}

}  // namespace tandem::launcher
