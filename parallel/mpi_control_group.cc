#include "parallel/mpi_control_group.h"

#include <mpi.h>

#include <climits>
#include <cstdint>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/mpi_requests.h"

namespace tandem::parallel {
namespace {

class MpiControlGroup : public ControlGroup {
 public:
  explicit MpiControlGroup(MpiRequests requests)
      : requests_(std::move(requests)), rank_(requests_.rank()), size_(requests_.size()) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }

  // Each rank sends to each, as in a barrier: MPI's own all-gather would spin without a limit.
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    int world_size = 0;
    MPI_Comm_size(requests_.communicator(), &world_size);
    TANDEM_CHECK(world_size == size_);
    TANDEM_CHECK(mine.size() <= INT_MAX);
    const auto length = static_cast<int64_t>(mine.size());
    lengths_.assign(size_, 0);
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      requests_.Receive(&lengths_[r], 1, MPI_INT64_T, r, kBytesTag);
      requests_.Send(&length, 1, MPI_INT64_T, r, kBytesTag);
    }
    TANDEM_RETURN_IF_ERROR(requests_.WaitOutsideOfSteps("an exchange between all ranks"));
    received_.assign(size_, "");
    received_[rank_] = mine;
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      received_[r].resize(lengths_[r]);
      if (lengths_[r] > 0)
        requests_.Receive(received_[r].data(), lengths_[r], MPI_BYTE, r, kBytesTag);
      if (length > 0) requests_.Send(mine.data(), length, MPI_BYTE, r, kBytesTag);
    }
    TANDEM_RETURN_IF_ERROR(requests_.WaitOutsideOfSteps("an exchange between all ranks"));
    return std::move(received_);
  }

  absl::Status Barrier() override {
    // Each rank sends to each: a rank that waits in vain then names the one at fault, not another
    // that waits too.
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      requests_.Receive(nullptr, 0, MPI_BYTE, r, kBarrierTag);
      requests_.Send(nullptr, 0, MPI_BYTE, r, kBarrierTag);
    }
    return requests_.Wait("a sign of life");
  }

 private:
  MpiRequests requests_;
  const int rank_;
  const int size_;
  // Members, since messages may come after we have given up waiting for them.
  std::vector<int64_t> lengths_;
  std::vector<std::string> received_;
};

}  // namespace

std::unique_ptr<ControlGroup> MakeMpiControlGroup(const MpiGroup& group, std::vector<int> members,
                                                  int world_rank,
                                                  std::chrono::milliseconds step_timeout) {
  return std::make_unique<MpiControlGroup>(
      MpiRequests(group, std::move(members), world_rank, step_timeout));
}

}  // namespace tandem::parallel
