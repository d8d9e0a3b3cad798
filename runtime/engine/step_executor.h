// Runs step plans on all ranks. The engine knows no more of model, MPI or
// devices than this.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "runtime/engine/step_plan.h"

namespace tandem::engine {

class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  // Executes one forward plan and fills logits, [plan.logits_indices, vocab] in
  // fp32 and id order. An error is final: the world cannot go on.
  virtual absl::Status Execute(const StepPlan& plan, std::span<float> logits) = 0;
};

}  // namespace tandem::engine
