#include "parallel/mpi_communicator.h"

#include <mpi.h>

#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/mpi_control_group.h"
#include "parallel/mpi_requests.h"

namespace tandem::parallel {

absl::Status FromMpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(absl::StrCat(what, ": ", std::string(text, length)));
}

namespace {

// Up to this many bytes of result an all-reduce sends all partial sums to all
// ranks in one round; above, each rank finishes a slice and the slices are
// gathered, which moves less.
constexpr int64_t kOneRoundBytes = 32 << 10;

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MpiRequests requests, std::unique_ptr<ControlGroup> control)
      : requests_(std::move(requests)),
        control_(std::move(control)),
        rank_(requests_.rank()),
        size_(requests_.size()) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  ControlGroup& control() override { return *control_; }

  ReducePlan PlanReduce(const TreeLayout& layout) override { return plans_.Add(layout, layout); }

  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    if (count == 0) return absl::OkStatus();
    const TreeLayout& layout = plans_[plan];
    if (count * static_cast<int64_t>(sizeof(float)) <= kOneRoundBytes) {
      return OneRound(layout, mine, count, out);
    }
    return SlicedRounds(layout, mine, count, out);
  }

  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }

  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    if (rows == 0) return absl::OkStatus();
    requests_.Clear();
    if (rank_ != 0) {
      TANDEM_CHECK(rows * widths[rank_] <= INT_MAX);
      requests_.Send(mine, rows * widths[rank_], MPI_FLOAT, 0, kGatherTag);
      return requests_.Wait("gathering logits");
    }
    int64_t total = 0;
    for (const int64_t width : widths) total += width;
    Reserve(rows * total);
    int64_t column = widths[0];
    for (int r = 1; r < size_; column += widths[r++]) {
      requests_.Receive(gathered_.data() + rows * column, rows * widths[r], MPI_FLOAT, r,
                        kGatherTag);
    }
    TANDEM_RETURN_IF_ERROR(requests_.Wait("gathering logits"));
    column = 0;
    for (int r = 0; r < size_; column += widths[r++]) {
      const float* from = r == 0 ? mine : gathered_.data() + rows * column;
      for (int64_t row = 0; row < rows; ++row) {
        std::memcpy(out + row * total + column, from + row * widths[r], widths[r] * sizeof(float));
      }
    }
    return absl::OkStatus();
  }

  absl::Status Await() override { return absl::OkStatus(); }

 private:
  void Reserve(int64_t floats) {
    if (static_cast<int64_t>(gathered_.size()) < floats) gathered_.resize(floats);
  }

  // Every rank sends its partial sums to all.
  absl::Status OneRound(const TreeLayout& layout, const float* mine, int64_t count, float* out) {
    Reserve(static_cast<int64_t>(layout.nodes.size()) * count);
    requests_.Clear();
    for (int r = 0; r < size_; ++r) {
      float* to = gathered_.data() + layout.rank_begin[r] * count;
      PlaceValues(layout, r, r == rank_ ? mine : to, count, values_);
      if (r != rank_ && layout.node_count(r) > 0) {
        requests_.Receive(to, layout.node_count(r) * count, MPI_FLOAT, r, kTreeTag);
      }
    }
    if (layout.node_count(rank_) > 0) {
      for (int step = 1; step < size_; ++step) {
        requests_.Send(mine, layout.node_count(rank_) * count, MPI_FLOAT, (rank_ + step) % size_,
                       kTreeTag);
      }
    }
    TANDEM_RETURN_IF_ERROR(requests_.Wait("all-reduce"));
    kernels::FinishTree({0, layout.leaves}, layout.nodes, values_, count, out);
    return absl::OkStatus();
  }

  int64_t SliceBegin(int64_t count, int rank) const { return count * rank / size_; }

  // Each rank finishes a slice; the slices go round.
  absl::Status SlicedRounds(const TreeLayout& layout, const float* mine, int64_t count,
                            float* out) {
    const int64_t begin = SliceBegin(count, rank_);
    const int64_t slice = SliceBegin(count, rank_ + 1) - begin;
    Reserve(static_cast<int64_t>(layout.nodes.size()) * slice);
    requests_.Clear();
    PlaceValues(layout, rank_, mine + begin, count, values_);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      float* to = gathered_.data() + layout.rank_begin[r] * slice;
      PlaceValues(layout, r, to, slice, values_);
      for (int64_t i = 0; i < layout.node_count(r); ++i) {
        requests_.Receive(to + i * slice, slice, MPI_FLOAT, r, kTreeTag);
      }
    }
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      const int64_t to_begin = SliceBegin(count, r);
      const int64_t to_count = SliceBegin(count, r + 1) - to_begin;
      for (int64_t i = 0; i < layout.node_count(rank_); ++i) {
        requests_.Send(mine + i * count + to_begin, to_count, MPI_FLOAT, r, kTreeTag);
      }
    }
    TANDEM_RETURN_IF_ERROR(requests_.Wait("all-reduce"));
    kernels::FinishTree({0, layout.leaves}, layout.nodes, values_, slice, out + begin);
    requests_.Clear();
    for (int step = 1; step < size_; ++step) {
      const int r = (rank_ + step) % size_;
      const int64_t from_begin = SliceBegin(count, r);
      requests_.Receive(out + from_begin, SliceBegin(count, r + 1) - from_begin, MPI_FLOAT, r,
                        kSliceTag);
      requests_.Send(out + begin, slice, MPI_FLOAT, r, kSliceTag);
    }
    return requests_.Wait("all-reduce");
  }

  MpiRequests requests_;
  const std::unique_ptr<ControlGroup> control_;
  const int rank_;
  const int size_;
  ReducePlans<TreeLayout> plans_;
  // Reused by every call; they reach their largest size in the first large step.
  std::vector<float> gathered_;
  std::vector<const float*> values_;
};

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(const MpiGroup& group, std::vector<int> members,
                                                  int world_rank,
                                                  std::chrono::milliseconds step_timeout) {
  return std::make_unique<MpiCommunicator>(
      MpiRequests(group, members, world_rank, step_timeout),
      MakeMpiControlGroup(group, members, world_rank, step_timeout));
}

}  // namespace tandem::parallel
