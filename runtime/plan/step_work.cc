#include "runtime/plan/step_work.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/status_macros.h"

namespace tandem::plan {

ModelWork OperationsOf(const loader::ModelConfig& config) {
  const auto hidden = static_cast<double>(config.hidden_size);
  const auto layers = static_cast<double>(config.num_layers);
  const auto head_dim = static_cast<double>(config.head_dim);
  const double q = static_cast<double>(config.num_heads) * head_dim;
  const double kv = static_cast<double>(config.num_kv_heads) * head_dim;
  const double ffn = static_cast<double>(config.intermediate_size);
  ModelWork work;
  work.linear_token = 2 * layers * hidden * ((q + 2 * kv) + q + 3 * ffn);
  work.attention_position = 2 * layers * 2 * q;
  work.head_row = 2 * static_cast<double>(config.vocab_size) * hidden;
  return work;
}

StepWork CountStep(const ModelWork& model, const engine::StepPlan& plan) {
  StepWork work;
  work.steps = 1;
  work.tokens = static_cast<int64_t>(plan.token_ids.size());
  double seen = 0, cached = 0;
  for (const int32_t position : plan.positions) seen += position + 1;
  for (const int32_t context : plan.context_lens) cached += context;
  const auto rows = static_cast<double>(plan.logits_indices.size());
  work.bytes = model.weights + (rows > 0 ? model.head : 0) + cached * model.kv_token;
  work.streamed = model.streamed;
  work.operations = static_cast<double>(work.tokens) * model.linear_token +
                    seen * model.attention_position + rows * model.head_row;
  return work;
}

absl::Status CountingExecutor::Execute(const engine::StepPlan& plan, std::span<float> logits) {
  TANDEM_RETURN_IF_ERROR(inner_.Execute(plan, logits));
  ++steps_;
  const StepWork step = CountStep(model_, plan);
  const double octaves = std::log2(step.operations / step.bytes);
  const auto place = static_cast<size_t>(std::clamp(octaves * 8 + 32, 0.0, 127.0));
  for (StepWork* sum : {&done_, &by_intensity_[place]}) {
    sum->steps += step.steps;
    sum->tokens += step.tokens;
    sum->bytes += step.bytes;
    sum->streamed += step.streamed;
    sum->operations += step.operations;
  }
  return absl::OkStatus();
}

double CountingExecutor::SecondsAt(double bytes_per_s, double operations_per_s,
                                   double streamed_per_s) const {
  double seconds = 0;
  for (const StepWork& sum : by_intensity_) {
    seconds += std::max({sum.bytes / bytes_per_s, sum.operations / operations_per_s,
                         streamed_per_s > 0 ? sum.streamed / streamed_per_s : 0});
  }
  return seconds;
}

}  // namespace tandem::plan
