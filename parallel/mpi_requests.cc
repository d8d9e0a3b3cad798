#include "parallel/mpi_requests.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/mpi_communicator.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {

void Backoff::Pause(std::chrono::microseconds longest) {
  constexpr auto kAwake = std::chrono::microseconds(500);
  if (waited() < kAwake) {
    std::this_thread::yield();
    return;
  }
  std::this_thread::sleep_for(pause_);
  pause_ = std::min(pause_ * 2, longest);
}

MpiRequests::MpiRequests(const MpiGroup& group, std::vector<int> members, int world_rank,
                         std::chrono::milliseconds timeout)
    : group_(group), members_(std::move(members)), world_rank_(world_rank), timeout_(timeout) {}

int MpiRequests::rank() const {
  const auto own = std::find(members_.begin(), members_.end(), world_rank_);
  TANDEM_CHECK(own != members_.end());
  return static_cast<int>(own - members_.begin());
}

void MpiRequests::Clear() {
  requests_.clear();
  peers_.clear();
}

void MpiRequests::Receive(void* to, int64_t count, MPI_Datatype type, int peer, int tag) {
  peers_.push_back(peer);
  MPI_Irecv(to, static_cast<int>(count), type, members_[peer], tag, communicator(),
            &requests_.emplace_back());
}

void MpiRequests::Send(const void* from, int64_t count, MPI_Datatype type, int peer, int tag) {
  peers_.push_back(peer);
  MPI_Isend(from, static_cast<int>(count), type, members_[peer], tag, communicator(),
            &requests_.emplace_back());
}

absl::Status MpiRequests::Wait(const char* what) {
  // The partners of a step are busy with the same step: longer sleeps would delay it.
  TANDEM_ASSIGN_OR_RETURN(const int late, Await(timeout_, std::chrono::microseconds(100), what));
  return late < 0 ? absl::OkStatus() : NotAnswered(late, world_rank_, timeout_, what);
}

absl::Status MpiRequests::WaitOutsideOfSteps(const char* what) {
  const std::chrono::milliseconds patience = group_.patience;
  TANDEM_ASSIGN_OR_RETURN(const int late, Await(patience, std::chrono::milliseconds(5), what));
  return late < 0 ? absl::OkStatus() : NotCome(late, world_rank_, patience, what);
}

absl::StatusOr<int> MpiRequests::Await(std::chrono::milliseconds timeout,
                                       std::chrono::microseconds longest_pause, const char* what) {
  Backoff backoff;
  for (;;) {
    int done = 0;
    TANDEM_RETURN_IF_ERROR(FromMpi(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(),
                                               &done, MPI_STATUSES_IGNORE),
                                   what));
    if (done) return -1;
    if (timeout.count() > 0 && backoff.waited() > timeout) return Late(what);
    backoff.Pause(longest_pause);
  }
}

absl::StatusOr<int> MpiRequests::Late(const char* what) const {
  for (size_t i = 0; i < requests_.size(); ++i) {
    int done = 0;
    if (requests_[i] == MPI_REQUEST_NULL) continue;
    MPI_Request_get_status(requests_[i], &done, MPI_STATUS_IGNORE);
    if (!done) return members_[peers_[i]];
  }
  return absl::InternalError(absl::StrCat(what, ": the time is over and nothing is missing"));
}

}  // namespace tandem::parallel
