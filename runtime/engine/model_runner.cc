#include "runtime/engine/model_runner.h"

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::engine {

absl::Status ModelRunner::Send(const StepPlan& plan) {
  if (channel_ == nullptr) return absl::OkStatus();
  plan.Serialize(message_);
  return channel_->Send(message_);
}

absl::Status ModelRunner::Execute(const StepPlan& plan, std::span<float> logits) {
  TANDEM_CHECK(plan.kind == StepPlan::Kind::kForward);
  TANDEM_RETURN_IF_ERROR(Send(plan));
  decoder_.MoveBlocks(plan.block_moves);
  return decoder_.Forward(plan.Input(), logits.data());
}

absl::Status ModelRunner::FetchRows(std::span<const int32_t> rows, std::span<float> logits) {
  rows_plan_.kind = StepPlan::Kind::kRows;
  rows_plan_.logits_indices.assign(rows.begin(), rows.end());
  TANDEM_RETURN_IF_ERROR(Send(rows_plan_));
  return decoder_.GatherRows(rows, logits.data());
}

absl::Status ModelRunner::Heartbeat() {
  StepPlan plan;
  plan.kind = StepPlan::Kind::kHeartbeat;
  TANDEM_RETURN_IF_ERROR(Send(plan));
  return control_.Barrier();
}

absl::Status ModelRunner::Shutdown() {
  StepPlan plan;
  plan.kind = StepPlan::Kind::kShutdown;
  return Send(plan);
}

absl::Status RunWorker(model::Decoder& decoder, parallel::StepChannel& channel,
                       parallel::ControlGroup& control, parallel::StepTimer* timer) {
  StepPlan plan;
  for (;;) {
    EnterPart(timer, parallel::StepPart::kIdle);
    TANDEM_ASSIGN_OR_RETURN(const std::span<const std::byte> message, channel.Receive());
    EnterPart(timer, parallel::StepPart::kScheduling);
    TANDEM_RETURN_IF_ERROR(plan.Parse(message));
    switch (plan.kind) {
      case StepPlan::Kind::kForward:
        decoder.MoveBlocks(plan.block_moves);
        TANDEM_RETURN_IF_ERROR(decoder.Forward(plan.Input(), nullptr));
        break;
      case StepPlan::Kind::kRows:
        TANDEM_RETURN_IF_ERROR(decoder.GatherRows(plan.logits_indices, nullptr));
        break;
      case StepPlan::Kind::kHeartbeat:
        TANDEM_RETURN_IF_ERROR(control.Barrier());
        break;
      case StepPlan::Kind::kShutdown:
        return absl::OkStatus();
    }
  }
}

}  // namespace tandem::engine
