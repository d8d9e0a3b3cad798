// The bytes that a step must read and the operations that it must do, counted from its plan.
// `tandem bench` divides them by the measured time.
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
  double weights = 0;  // packed, without the head
  double head = 0;
  double streamed = 0;  // the part of these that is read from a file or the host in each step
  double kv_token = 0;  // of one token, all layers
  // Operations; a multiply-add is two.
  double linear_token = 0;  // products of the layers, for each token
  double attention_position =
      0;                // scores and values, for each token and position that it attends to
  double head_row = 0;  // for each row of logits
};

// Fills in the operations. The bytes come from the ranks (rank::WorkOf).
ModelWork OperationsOf(const loader::ModelConfig& config);

struct StepWork {
  int64_t steps = 0;
  int64_t tokens = 0;
  double bytes = 0;
  double streamed = 0;  // part of `bytes`
  double operations = 0;
};

// Weights count once for each step, the head only where there are logits. The KV cache of a
// sequence counts once for each step, though the tokens of a chunk may read it again from the
// processor's caches.
StepWork CountStep(const ModelWork& model, const engine::StepPlan& plan);

// Passes plans on to another executor and adds up their work.
class CountingExecutor : public engine::StepExecutor {
 public:
  CountingExecutor(engine::StepExecutor& inner, const ModelWork& model)
      : inner_(inner), model_(model) {}

  absl::Status Execute(const engine::StepPlan& plan, std::span<float> logits) override;
  engine::RowSurveys* surveys() override { return inner_.surveys(); }
  const StepWork& done() const { return done_; }
  // Steps so far; any thread.
  int64_t steps() const { return steps_; }
  // The least seconds that all steps can take: each is limited by bytes read, by operations or by
  // streamed bytes, at these rates a second. streamed_per_s 0: nothing is streamed.
  double SecondsAt(double bytes_per_s, double operations_per_s, double streamed_per_s = 0) const;

 private:
  engine::StepExecutor& inner_;
  const ModelWork model_;
  StepWork done_;
  std::atomic<int64_t> steps_{0};
  // Sums over steps with about the same operations per byte: the same limit applies to them.
  std::array<StepWork, 128> by_intensity_;
};

}  // namespace tandem::plan
