// Collectives of the steps of one TP world. Made at start and handed to the layers; all ranks make
// the same calls in the same order. Messages and bytes of each: docs/collectives.md. What ranks
// exchange outside of steps: control_group.h.
//
// Values are in the memory of the rank's backend; only the result of GatherColumns is on the host.
// Calls take their turn after the backend's operations. Communicators of host memory serve backends
// whose memory is the host's; device_communicator.h serves the others.
//
// A Status that is not OK is final: the world cannot continue.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/residual_norm.h"
#include "parallel/control_group.h"
#include "parallel/reduce_plan.h"
#include "parallel/tree_layout.h"

namespace tandem::parallel {

// Every method is pure, so that a wrapper (timed_communicator.h) that forgets one does not compile.
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // The exchanges of the same ranks outside of steps. Its Barrier takes its turn among the calls
  // here.
  virtual ControlGroup& control() = 0;

  // Prepares all-reduces of a layout, at start: a step compares no layouts and builds nothing. All
  // ranks plan the same layouts in the same order. Does not wait for other ranks.
  virtual ReducePlan PlanReduce(const TreeLayout& layout) = 0;

  // The one all-reduce. mine is [node_count(rank), count], this rank's partial sums; every rank
  // gets the tree's root, [count], with the same bits.
  virtual absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) = 0;

  // AllReduce of [tokens, hidden] and then Backend::AddRmsNorm with the root as delta, fused into
  // one operation. False, and nothing done, where there is none for this shape; all ranks get the
  // same answer. Callers use AllReduceAddRmsNorm below.
  virtual absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan plan, const float* mine,
                                                        const kernels::ResidualNorm& norm) = 0;

  // Rank 0 gets [rows, sum of widths]: rank r's columns come from its mine, [rows, widths[r]].
  // out is used on rank 0 only.
  virtual absl::Status GatherColumns(const float* mine, int64_t rows,
                                     std::span<const int64_t> widths, float* out) = 0;

  // Waits until all-reduces that were only queued are done on this rank, at most for the step
  // timeout; returns their error. Not collective.
  virtual absl::Status Await() = 0;
};

// AllReduce of [tokens, hidden], then Backend::AddRmsNorm with the root as delta: fused or one
// after the other, with the same bits. sum, [tokens, hidden], is scratch; it may be `mine` in a
// world of one.
absl::Status AllReduceAddRmsNorm(Communicator& communicator, kernels::Backend& backend,
                                 ReducePlan plan, const float* mine,
                                 const kernels::ResidualNorm& norm, float* sum);

// A world of one: a copy.
class SelfCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  ControlGroup& control() override { return control_; }
  ReducePlan PlanReduce(const TreeLayout& layout) override;
  absl::Status AllReduce(ReducePlan plan, const float* mine, int64_t count, float* out) override;
  absl::StatusOr<bool> FusedAllReduceAddRmsNorm(ReducePlan, const float*,
                                                const kernels::ResidualNorm&) override {
    return false;
  }
  absl::Status GatherColumns(const float* mine, int64_t rows, std::span<const int64_t> widths,
                             float* out) override;
  absl::Status Await() override { return absl::OkStatus(); }

 private:
  SelfGroup control_;
};

}  // namespace tandem::parallel
