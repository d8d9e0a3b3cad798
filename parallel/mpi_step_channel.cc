#include <mpi.h>

#include <climits>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_requests.h"

namespace tandem::parallel {
namespace {

class MpiStepChannel : public StepChannel {
 public:
  MpiStepChannel(MpiRequests requests, std::chrono::milliseconds silence)
      : requests_(std::move(requests)), silence_(silence) {}

  absl::Status Send(std::span<const std::byte> message) override {
    TANDEM_CHECK(requests_.rank() == 0);
    TANDEM_CHECK(message.size() <= INT_MAX);
    requests_.Clear();
    for (int r = 1; r < requests_.size(); ++r) {
      requests_.Send(message.data(), message.size(), MPI_BYTE, r, kStepTag);
    }
    return requests_.Wait("sending the step plan");
  }

  absl::StatusOr<std::span<const std::byte>> Receive() override {
    // MPI has no sleeping wait. While steps follow each other the next plan is there within
    // microseconds; later each probe that finds nothing doubles the sleep, up to a length that
    // costs an idle rank well under 1 % of a core.
    constexpr std::chrono::microseconds kLongest{5000};
    const int sender = requests_.world_rank(0);
    Backoff backoff;
    MPI_Status status;
    for (;;) {
      int there = 0;
      TANDEM_RETURN_IF_ERROR(
          FromMpi(MPI_Iprobe(sender, kStepTag, requests_.communicator(), &there, &status),
                  "awaiting a plan"));
      if (there) break;
      if (silence_.count() > 0 && backoff.waited() > silence_) {
        return Silent(sender, silence_);
      }
      backoff.Pause(kLongest);
    }
    int bytes = 0;
    MPI_Get_count(&status, MPI_BYTE, &bytes);
    if (static_cast<int>(message_.size()) < bytes) message_.resize(bytes);
    TANDEM_RETURN_IF_ERROR(FromMpi(MPI_Recv(message_.data(), bytes, MPI_BYTE, sender, kStepTag,
                                            requests_.communicator(), MPI_STATUS_IGNORE),
                                   "receiving the step plan"));
    return std::span<const std::byte>(message_.data(), bytes);
  }

 private:
  MpiRequests requests_;
  const std::chrono::milliseconds silence_;
  std::vector<std::byte> message_;
};

}  // namespace

std::unique_ptr<StepChannel> MakeMpiStepChannel(const MpiGroup& group, std::vector<int> members,
                                                int world_rank, const Timeouts& timeouts) {
  return std::make_unique<MpiStepChannel>(
      MpiRequests(group, std::move(members), world_rank, timeouts.step), timeouts.silence);
}

}  // namespace tandem::parallel
