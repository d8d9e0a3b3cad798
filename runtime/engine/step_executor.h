// Runs step plans on all ranks. This is all that the engine knows about model, MPI and devices.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "runtime/engine/step_plan.h"

namespace tandem::engine {

// An executor's surveys: its ranks summarize rows of logits where they lie, so that whole rows need
// not be sent to rank 0.
class RowSurveys {
 public:
  virtual ~RowSurveys() = default;

  // How many candidate tokens a rank lists for a row.
  virtual int32_t candidates() const = 0;

  // The surveys of one row of the last plan, one for each rank in order of ids. The row's sampling
  // request was not kWhole. Valid until the next call.
  virtual std::span<const kernels::RankSurvey> Of(int32_t row) = 0;

  // Fetches whole rows of the last plan: `rows` are ascending numbers, and each row is written to
  // its place in logits, [plan.logits_indices, vocab]. An error is final.
  virtual absl::Status FetchRows(std::span<const int32_t> rows, std::span<float> logits) = 0;
};

class StepExecutor {
 public:
  virtual ~StepExecutor() = default;

  // Executes one forward plan and fills logits, [plan.logits_indices, vocab] in fp32 and id order.
  // If the plan has sampling requests, only rows of kind kWhole are filled. An error is final: the
  // world cannot go on.
  virtual absl::Status Execute(const StepPlan& plan, std::span<float> logits) = 0;

  // Null: plans may have no sampling requests.
  virtual RowSurveys* surveys() { return nullptr; }
};

}  // namespace tandem::engine
