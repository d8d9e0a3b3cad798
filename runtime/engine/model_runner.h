// Runs plans as forward steps: rank 0 sends each plan to the other ranks and runs it, and they run
// what they receive. Workers hold no sequence state.
#pragma once

#include <vector>

#include "parallel/control_group.h"
#include "parallel/step_channel.h"
#include "parallel/step_timer.h"
#include "runtime/engine/step_executor.h"
#include "runtime/model/decoder.h"

namespace tandem::engine {

// Rank 0. Decoder, channel and control group outlive it; the channel is null in a world of one.
class ModelRunner : public StepExecutor, private RowSurveys {
 public:
  ModelRunner(model::Decoder* decoder, parallel::StepChannel* channel,
              parallel::ControlGroup* control)
      : decoder_(*decoder), channel_(channel), control_(*control) {}

  absl::Status Execute(const StepPlan& plan, std::span<float> logits) override;
  RowSurveys* surveys() override { return decoder_.candidates() > 0 ? this : nullptr; }

  // Between steps: an error if a rank does not answer, the same that a step would return.
  absl::Status Heartbeat();

  // Ends RunWorker on the other ranks. Execute may follow when they have called it again.
  absl::Status Shutdown();

 private:
  int32_t candidates() const override { return decoder_.candidates(); }
  std::span<const kernels::RankSurvey> Of(int32_t row) override { return decoder_.Survey(row); }
  absl::Status FetchRows(std::span<const int32_t> rows, std::span<float> logits) override;

  absl::Status Send(const StepPlan& plan);

  model::Decoder& decoder_;
  parallel::StepChannel* channel_;
  parallel::ControlGroup& control_;
  StepPlan rows_plan_;  // of kind kRows
  std::vector<std::byte> message_;
};

// Other ranks: runs plans until the one that shuts down. The timer, which measures the waits, may be
// null.
absl::Status RunWorker(model::Decoder& decoder, parallel::StepChannel& channel,
                       parallel::ControlGroup& control, parallel::StepTimer* timer = nullptr);

}  // namespace tandem::engine
