#include "parallel/timeouts.h"

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"

namespace tandem::parallel {
namespace {

std::string Seconds(std::chrono::milliseconds timeout) {
  return absl::FormatDuration(absl::FromChrono(timeout));
}

}  // namespace

absl::Status NotAnswered(int late, int waiting, std::chrono::milliseconds timeout,
                         const char* what) {
  return absl::UnavailableError(absl::StrCat("rank ", late, " has not answered rank ", waiting,
                                             " for ", Seconds(timeout), " (", what, ")"));
}

absl::Status NotCome(int late, int waiting, std::chrono::milliseconds timeout, const char* what) {
  return absl::DeadlineExceededError(
      std::string(NotAnswered(late, waiting, timeout, what).message()));
}

absl::Status Silent(int late, std::chrono::milliseconds timeout) {
  return absl::UnavailableError(
      absl::StrCat("rank ", late, " has been silent for ", Seconds(timeout), " (awaiting a plan)"));
}

}  // namespace tandem::parallel
