// What a step must touch and execute, counted from its plan: the numerators of `tandem bench`.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "runtime/engine/step_executor.h"
#include "runtime/loader/model_config.h"

namespace tandem::plan {

// Of all ranks together.
struct ModelWork {
  // Bytes as held.
  double weights = 0;  // packed, without the head's
  double head = 0;
  double streamed = 0;  // of these, what comes from a file or the host's memory in each step
  double kv_token = 0;  // of one token, all layers
  // Operations; a multiply-add is two.
  double linear_token = 0;        // products of the layers, a token
  double attention_position = 0;  // scores and values, a token and position that it sees
  double head_row = 0;
};

// The operations; bytes are what the ranks say.
ModelWork OperationsOf(const loader::ModelConfig& config);

struct StepWork {
  int64_t steps = 0;
  int64_t tokens = 0;
  double bytes = 0;
  double streamed = 0;  // of these
  double operations = 0;
};

// Weights are read once a step, the head's where there are logits; a sequence's KV cache once a
// step, also where a chunk's tokens read it again from the processor's caches.
StepWork CountStep(const ModelWork& model, const engine::StepPlan& plan);

// Passes plans on and adds up what they are.
class CountingExecutor : public engine::StepExecutor {
 public:
  CountingExecutor(engine::StepExecutor& inner, const ModelWork& model)
      : inner_(inner), model_(model) {}

  absl::Status Execute(const engine::StepPlan& plan, std::span<float> logits) override;
  engine::RowSurveys* surveys() override { return inner_.surveys(); }
  const StepWork& done() const { return done_; }
  // So far; any thread.
  int64_t steps() const { return steps_; }
  // What all steps take at the least, each bound by the bytes a second, by the operations, or by
  // what is streamed; 0: that is not.
  double SecondsAt(double bytes_per_s, double operations_per_s, double streamed_per_s = 0) const;

 private:
  engine::StepExecutor& inner_;
  const ModelWork model_;
  StepWork done_;
  std::atomic<int64_t> steps_{0};
  // Sums of steps of about the same operations a byte: those are bound alike.
  std::array<StepWork, 128> by_intensity_;
};

}  // namespace tandem::plan
