// Where plans become forward steps: rank 0 sends each plan to the other ranks
// and runs it; they run what they receive. Workers hold no sequence state.
#pragma once

#include <vector>

#include "parallel/communicator.h"
#include "parallel/step_channel.h"
#include "parallel/step_timer.h"
#include "runtime/engine/step_executor.h"
#include "runtime/model/decoder.h"

namespace tandem::engine {

// Rank 0. Decoder, channel and communicator outlive it; the channel is null in a world of one.
class ModelRunner : public StepExecutor {
 public:
  ModelRunner(model::Decoder* decoder, parallel::StepChannel* channel,
              parallel::Communicator* communicator)
      : decoder_(*decoder), channel_(channel), communicator_(*communicator) {}

  absl::Status Execute(const StepPlan& plan, std::span<float> logits) override;

  // Between steps: an error if a rank does not answer, as a step would find.
  absl::Status Heartbeat();

  // Ends RunWorker on the other ranks. Execute may follow when they have called it again.
  absl::Status Shutdown();

 private:
  absl::Status Send(const StepPlan& plan);

  model::Decoder& decoder_;
  parallel::StepChannel* channel_;
  parallel::Communicator& communicator_;
  std::vector<std::byte> message_;
};

// Other ranks: runs plans until the one that shuts down. The timer, told of the waits, may be
// null.
absl::Status RunWorker(model::Decoder& decoder, parallel::StepChannel& channel,
                       parallel::Communicator& communicator, parallel::StepTimer* timer = nullptr);

}  // namespace tandem::engine
