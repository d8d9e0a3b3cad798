// A communicator that books the time of all-reduces with a StepTimer, so that neither the layers
// nor the communicators know of timing.
#pragma once

#include <memory>
#include <utility>

#include "parallel/communicator.h"
#include "parallel/step_timer.h"

namespace tandem::parallel {

class TimedCommunicator : public Communicator {
 public:
  // The timer outlives it.
  TimedCommunicator(std::unique_ptr<Communicator> inner, StepTimer* timer)
      : inner_(std::move(inner)), timer_(*timer) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  ControlGroup& control() override { return inner_->control(); }
  ReducePlan PlanReduce(const TreeLayout& layout) override { return inner_->PlanReduce(layout); }
  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override {
    const StepPart before = timer_.part();
    timer_.Enter(StepPart::kAllReduce);
    absl::Status status = inner_->AllReduce(plan, mine, count, out);
    timer_.Enter(before);
    return status;
  }
  // Not booked: it is only queued on a GPU, and on other communicators does nothing.
  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan plan, const float* mine,
                                                const kernels::ResidualNorm& norm) override {
    return inner_->FusedAllReduceAddRmsNorm(plan, mine, norm);
  }
  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override {
    return inner_->GatherColumns(mine, rows, widths, out);
  }
  absl::Status Await() override { return inner_->Await(); }

 private:
  const std::unique_ptr<Communicator> inner_;
  StepTimer& timer_;
};

}  // namespace tandem::parallel
