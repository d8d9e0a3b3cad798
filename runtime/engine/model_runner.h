// Where plans become forward steps: rank 0 sends each plan to the other ranks
// and runs it; they run what they receive. Workers hold no sequence state.
#pragma once

#include <vector>

#include "parallel/step_channel.h"
#include "runtime/engine/step_executor.h"
#include "runtime/model/decoder.h"

namespace tandem::engine {

// Rank 0. Decoder and channel outlive it; channel is null in a world of one.
class ModelRunner : public StepExecutor {
 public:
  ModelRunner(model::Decoder* decoder, parallel::StepChannel* channel)
      : decoder_(*decoder), channel_(channel) {}

  absl::Status Execute(const StepPlan& plan, std::span<float> logits) override;

  // Tells the workers to end. No Execute after it.
  absl::Status Shutdown();

 private:
  absl::Status Send(const StepPlan& plan);

  model::Decoder& decoder_;
  parallel::StepChannel* channel_;
  std::vector<std::byte> message_;
};

// Other ranks: runs plans until the one that shuts down.
absl::Status RunWorker(model::Decoder& decoder, parallel::StepChannel& channel);

}  // namespace tandem::engine
