#include "runtime/quantize/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/rope_frequencies.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/step_input.h"

namespace tandem::quantize {

absl::StatusOr<std::unique_ptr<Calibration>> Calibration::Create(
    const loader::ModelConfig& config, const SourceWeights& weights, kernels::Backend& backend,
    const std::vector<std::vector<int32_t>>& sequences) {
  std::unique_ptr<Calibration> run(new Calibration(config, weights, backend));
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_heads * config.head_dim;
  for (const std::vector<int32_t>& ids : sequences) {
    const auto count = static_cast<int64_t>(ids.size());
    TANDEM_CHECK(count > 0 && count <= config.max_position_embeddings);
    run->sequences_.push_back({run->tokens_, count});
    run->tokens_ += count;
    run->longest_ = std::max(run->longest_, count);
  }
  run->residual_.resize(run->tokens_ * hidden);
  run->normed_.resize(run->tokens_ * hidden);
  run->inner_.resize(run->tokens_ * std::max(q, config.intermediate_size));
  run->wide_.resize(run->longest_ * std::max(q + 2 * config.num_kv_heads * config.head_dim,
                                             2 * config.intermediate_size));
  run->delta_.resize(run->longest_ * hidden);
  run->inverse_frequencies_ = loader::InverseFrequencies(config.rope, config.head_dim);
  TANDEM_ASSIGN_OR_RETURN(
      run->cache_,
      model::KvCache::Allocate(
          backend, {.layers = 1,
                    .blocks = (run->longest_ + model::kBlockSize - 1) / model::kBlockSize,
                    .kv_heads = config.num_kv_heads,
                    .head_dim = config.head_dim,
                    .dtype = kernels::KvDType::kF32}));
  const loader::CheckpointTensor& table = weights.Get(std::string(model::kEmbedding) + ".weight");
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& sequence = run->sequences_[i];
    backend.EmbedTokens(table.data(), table.dtype(), hidden, sequences[i].data(), sequence.tokens,
                        &run->residual_[sequence.begin * hidden]);
  }
  backend.Synchronize();
  return run;
}

absl::Status Calibration::RunLayer(int64_t index, StageVisitor visit) {
  const int64_t hidden = config_.hidden_size;
  const int64_t q = config_.num_heads * config_.head_dim;
  const int64_t ffn = config_.intermediate_size;
  const float epsilon = static_cast<float>(config_.rms_norm_eps);
  const auto read = [&](std::string_view part) {
    return weights_.ReadVector(model::LayerTensor(index, part));
  };
  // Biases of merged matrices, one after the other; empty where there are none.
  const auto read_biases =
      [&](std::initializer_list<std::string_view> parts) -> absl::StatusOr<std::vector<float>> {
    std::vector<float> all;
    for (const std::string_view part : parts) {
      TANDEM_ASSIGN_OR_RETURN(const std::vector<float> bias, read(part));
      all.insert(all.end(), bias.begin(), bias.end());
    }
    return all;
  };
  TANDEM_ASSIGN_OR_RETURN(const auto input_norm, read("input_layernorm.weight"));
  TANDEM_ASSIGN_OR_RETURN(const auto post_norm, read("post_attention_layernorm.weight"));
  TANDEM_ASSIGN_OR_RETURN(const auto q_norm, read("self_attn.q_norm.weight"));
  TANDEM_ASSIGN_OR_RETURN(const auto k_norm, read("self_attn.k_norm.weight"));
  TANDEM_ASSIGN_OR_RETURN(
      const auto qkv_bias,
      read_biases({"self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"}));
  TANDEM_ASSIGN_OR_RETURN(const auto output_bias, read("self_attn.o_proj.bias"));
  TANDEM_ASSIGN_OR_RETURN(const auto gate_up_bias,
                          read_biases({"mlp.gate_proj.bias", "mlp.up_proj.bias"}));
  TANDEM_ASSIGN_OR_RETURN(const auto down_bias, read("mlp.down_proj.bias"));
  const auto data = [](const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); };
  const auto name = [&](std::string_view part) { return model::LayerTensor(index, part); };
  const auto add = [&](const Sequence& s, const kernels::LinearWeight& weight, const float* x,
                       const std::vector<float>& bias, const std::vector<float>& norm) {
    backend_.Linear(weight, x, s.tokens, data(bias), delta_.data());
    backend_.AddRmsNorm(delta_.data(), nullptr, &residual_[s.begin * hidden], norm.data(), epsilon,
                        s.tokens, hidden, &normed_[s.begin * hidden]);
  };

  for (const Sequence& s : sequences_) {
    backend_.AddRmsNorm(nullptr, nullptr, &residual_[s.begin * hidden], input_norm.data(), epsilon,
                        s.tokens, hidden, &normed_[s.begin * hidden]);
  }
  backend_.Synchronize();
  TANDEM_ASSIGN_OR_RETURN(
      auto weight,
      visit({{name("self_attn.q_proj"), name("self_attn.k_proj"), name("self_attn.v_proj")},
             normed_.data(),
             tokens_,
             hidden}));
  for (const Sequence& s : sequences_) {
    backend_.Linear(*weight, &normed_[s.begin * hidden], s.tokens, data(qkv_bias), wide_.data());
    TANDEM_RETURN_IF_ERROR(Attend(s, q_norm, k_norm, wide_.data(), &inner_[s.begin * q]));
  }
  backend_.Synchronize();
  TANDEM_ASSIGN_OR_RETURN(weight, visit({{name("self_attn.o_proj")}, inner_.data(), tokens_, q}));
  for (const Sequence& s : sequences_)
    add(s, *weight, &inner_[s.begin * q], output_bias, post_norm);
  backend_.Synchronize();
  TANDEM_ASSIGN_OR_RETURN(
      weight,
      visit({{name("mlp.gate_proj"), name("mlp.up_proj")}, normed_.data(), tokens_, hidden}));
  for (const Sequence& s : sequences_) {
    backend_.Linear(*weight, &normed_[s.begin * hidden], s.tokens, data(gate_up_bias),
                    wide_.data());
    backend_.SiluMul(wide_.data(), s.tokens, ffn, &inner_[s.begin * ffn]);
  }
  backend_.Synchronize();
  TANDEM_ASSIGN_OR_RETURN(weight, visit({{name("mlp.down_proj")}, inner_.data(), tokens_, ffn}));
  // The norm that comes out is not used: the next layer has its own.
  for (const Sequence& s : sequences_)
    add(s, *weight, &inner_[s.begin * ffn], down_bias, post_norm);
  backend_.Synchronize();
  return absl::OkStatus();
}

absl::Status Calibration::Attend(const Sequence& sequence, const std::vector<float>& q_norm,
                                 const std::vector<float>& k_norm, float* qkv, float* out) {
  const int64_t tokens = sequence.tokens;
  const int64_t half = config_.head_dim / 2;
  std::vector<int32_t> positions(tokens), token_sequence(tokens, 0);
  std::iota(positions.begin(), positions.end(), 0);
  const std::vector<int32_t>& slots = positions;  // blocks in order
  std::vector<int32_t> blocks((tokens + model::kBlockSize - 1) / model::kBlockSize);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<int32_t> head_to_kv(config_.num_heads);
  for (int64_t h = 0; h < config_.num_heads; ++h) {
    head_to_kv[h] = static_cast<int32_t>(h * config_.num_kv_heads / config_.num_heads);
  }
  std::vector<float> cos(tokens * half), sin(tokens * half);
  backend_.RopeAngles(positions.data(), tokens, inverse_frequencies_.data(), half,
                      static_cast<float>(config_.rope.attention_factor), cos.data(), sin.data());
  const kernels::KvCacheView cache = cache_.layer(0);
  backend_.RopeAndCache({.tokens = tokens,
                         .q_heads = config_.num_heads,
                         .head_dim = config_.head_dim,
                         .qkv = qkv,
                         .q_norm = q_norm.empty() ? nullptr : q_norm.data(),
                         .k_norm = k_norm.empty() ? nullptr : k_norm.data(),
                         .norm_epsilon = static_cast<float>(config_.rms_norm_eps),
                         .cos = cos.data(),
                         .sin = sin.data(),
                         .slot_mapping = slots.data(),
                         .cache = cache});
  backend_.PagedAttention(
      {.tokens = tokens,
       .q_heads = config_.num_heads,
       .head_dim = config_.head_dim,
       .qkv = qkv,
       .qkv_stride = (config_.num_heads + 2 * config_.num_kv_heads) * config_.head_dim,
       .positions = positions.data(),
       .token_sequence = token_sequence.data(),
       .block_tables = blocks.data(),
       .max_blocks = static_cast<int64_t>(blocks.size()),
       .head_to_kv = head_to_kv.data(),
       .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
       .cache = cache,
       .out = out});
  backend_.Synchronize();
  return absl::OkStatus();
}

}  // namespace tandem::quantize
