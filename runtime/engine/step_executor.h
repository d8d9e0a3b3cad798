// Runs step plans on all ranks. The engine knows no more of model, MPI or
// devices than this.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "runtime/engine/step_plan.h"

namespace tandem::engine {

// Of an executor whose ranks survey rows of logits in place, so that these need not come.
class RowSurveys {
 public:
  virtual ~RowSurveys() = default;

  // That a rank lists for a row.
  virtual int32_t candidates() const = 0;

  // A row of the last plan whose sampling request was not kWhole, by rank, in order of ids.
  // Until the next call.
  virtual std::span<const kernels::RankSurvey> Of(int32_t row) = 0;

  // Brings rows of the last plan whole after all: ascending numbers, into their places of
  // logits, [plan.logits_indices, vocab]. An error is final.
  virtual absl::Status FetchRows(std::span<const int32_t> rows, std::span<float> logits) = 0;
};

class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  // Executes one forward plan and fills logits, [plan.logits_indices, vocab] in
  // fp32 and id order; with sampling requests in the plan, only rows that those want whole.
  // An error is final: the world cannot go on.
  virtual absl::Status Execute(const StepPlan& plan, std::span<float> logits) = 0;

  // Null: plans may have no sampling requests.
  virtual RowSurveys* surveys() { return nullptr; }
};

}  // namespace tandem::engine
