#include "parallel/thread_communicator.h"

#include <cstring>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {

absl::Status ThreadWorld::Meet() {
  std::unique_lock lock(mutex_);
  const uint64_t round = round_;
  if (++arrived_ == size_) {
    arrived_ = 0;
    ++round_;
    all_here_.notify_all();
  } else {
    all_here_.wait(lock, [&] { return round_ != round || aborted_; });
  }
  if (aborted_) return absl::AbortedError("another rank has ended the world");
  return absl::OkStatus();
}

void ThreadWorld::Abort() {
  const std::lock_guard lock(mutex_);
  aborted_ = true;
  all_here_.notify_all();
}

class ThreadGroup : public ControlGroup {
 public:
  ThreadGroup(ThreadWorld* world, int rank) : world_(*world), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return world_.size(); }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(const std::string& mine) override {
    world_.bytes_[rank_] = mine;
    TANDEM_RETURN_IF_ERROR(world_.Meet());
    std::vector<std::string> all = world_.bytes_;
    TANDEM_RETURN_IF_ERROR(world_.Meet());
    return all;
  }

  absl::Status Barrier() override { return world_.Meet(); }

 private:
  ThreadWorld& world_;
  const int rank_;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(ThreadWorld* world, int rank)
      : world_(*world), rank_(rank), control_(world, rank) {}
  int rank() const override { return rank_; }
  int size() const override { return world_.size(); }
  ControlGroup& control() override { return control_; }

  ReducePlan PlanReduce(const TreeLayout& layout) override { return plans_.Add(layout, layout); }

  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    const TreeLayout& layout = plans_[plan];
    world_.slots_[rank_] = mine;
    TANDEM_RETURN_IF_ERROR(world_.Meet());
    for (int r = 0; r < size(); ++r) PlaceValues(layout, r, world_.slots_[r], count, values_);
    kernels::FinishTree({0, layout.leaves}, layout.nodes, values_, count, out);
    return world_.Meet();  // no rank changes its partial sums while others read them
  }

  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }

  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    world_.slots_[rank_] = mine;
    TANDEM_RETURN_IF_ERROR(world_.Meet());
    if (rank_ == 0) {
      int64_t total = 0, column = 0;
      for (int64_t width : widths) total += width;
      for (int r = 0; r < size(); column += widths[r++]) {
        for (int64_t row = 0; row < rows; ++row) {
          std::memcpy(out + row * total + column, world_.slots_[r] + row * widths[r],
                      widths[r] * sizeof(float));
        }
      }
    }
    return world_.Meet();
  }

  absl::Status Await() override { return absl::OkStatus(); }

 private:
  ThreadWorld& world_;
  const int rank_;
  ThreadGroup control_;
  ReducePlans<TreeLayout> plans_;
  std::vector<const float*> values_;
};

std::unique_ptr<Communicator> ThreadWorld::Make(int rank) {
  TANDEM_CHECK(rank >= 0 && rank < size_);
  return std::make_unique<ThreadCommunicator>(this, rank);
}

}  // namespace tandem::parallel
