#include "runtime/quantize/calibration.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/rope_frequencies.h"
#include "runtime/model/model_matrices.h"
#include "runtime/model/step_input.h"

namespace tandem::quantize {

absl::StatusOr<std::unique_ptr<Calibration>> Calibration::Create(
    const loader::ModelConfig& config, const SourceWeights& weights, kernels::Backend& backend,
    const std::vector<std::vector<int32_t>>& sequences) {
  std::unique_ptr<Calibration> pass(new Calibration(config, weights, backend));
  const int64_t hidden = config.hidden_size;
  const int64_t q = config.num_heads * config.head_dim;
  for (const std::vector<int32_t>& ids : sequences) {
    const auto count = static_cast<int64_t>(ids.size());
    TANDEM_CHECK(count > 0 && count <= config.max_position_embeddings);
    pass->sequences_.push_back({pass->tokens_, count});
    pass->tokens_ += count;
    pass->longest_ = std::max(pass->longest_, count);
  }
  pass->residual_.resize(pass->tokens_ * hidden);
  pass->normed_.resize(pass->tokens_ * hidden);
  pass->inner_.resize(pass->tokens_ * std::max(q, config.intermediate_size));
  pass->wide_.resize(pass->longest_ * std::max(q + 2 * config.num_kv_heads * config.head_dim,
                                               2 * config.intermediate_size));
  pass->delta_.resize(pass->longest_ * hidden);
  pass->inverse_frequencies_ = loader::InverseFrequencies(config.rope, config.head_dim);
  TANDEM_ASSIGN_OR_RETURN(
      pass->cache_,
      model::KvCache::Allocate(
          backend, {.layers = 1,
                    .blocks = (pass->longest_ + model::kBlockSize - 1) / model::kBlockSize,
                    .kv_heads = config.num_kv_heads,
                    .head_dim = config.head_dim,
                    .dtype = kernels::KvDType::kF32}));
  const loader::CheckpointTensor& table = weights.Get(std::string(model::kEmbedding) + ".weight");
  const int64_t row_bytes = table.row_bytes();
  std::vector<std::byte> rows(pass->longest_ * row_bytes);
  std::vector<int32_t> in_order(pass->longest_);
  std::iota(in_order.begin(), in_order.end(), 0);
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& sequence = pass->sequences_[i];
    for (int64_t t = 0; t < sequence.tokens; ++t) {
      const int32_t id = sequences[i][t];
      TANDEM_RETURN_IF_ERROR(table.CopyRows(id, id + 1, rows.data() + t * row_bytes));
    }
    backend.EmbedTokens(rows.data(), table.dtype(), hidden, in_order.data(), sequence.tokens,
                        &pass->residual_[sequence.begin * hidden]);
  }
  backend.Synchronize();
  return pass;
}

absl::StatusOr<Calibration::LayerVectors> Calibration::ReadVectors(
    const std::vector<model::HeldMatrix>& matrices) const {
  LayerVectors vectors;
  const auto read_norm = [&](const model::Norm& norm) -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(vectors.norms[norm.role], weights_.ReadVector(norm.name));
    return absl::OkStatus();
  };
  for (const model::HeldMatrix& matrix : matrices) {
    if (matrix.input_norm) TANDEM_RETURN_IF_ERROR(read_norm(*matrix.input_norm));
    for (const model::Norm& norm : matrix.output_norms) TANDEM_RETURN_IF_ERROR(read_norm(norm));
    std::vector<float>& biases = vectors.biases[matrix.role];
    for (const model::Module& module : matrix.modules) {
      TANDEM_ASSIGN_OR_RETURN(const std::vector<float> bias,
                              weights_.ReadVector(module.name + ".bias"));
      biases.insert(biases.end(), bias.begin(), bias.end());
    }
  }
  return vectors;
}

void Calibration::AddAndNorm(const Sequence& s, const float* delta,
                             const std::vector<float>& norm) {
  const int64_t at = s.begin * config_.hidden_size;
  backend_.AddRmsNorm(delta, nullptr, &residual_[at], norm.data(),
                      static_cast<float>(config_.rms_norm_eps), s.tokens, config_.hidden_size,
                      &normed_[at]);
}

absl::Status Calibration::RunLayer(int64_t index, StageVisitor visit) {
  const std::vector<model::HeldMatrix> matrices = model::LayerMatrices(config_, index);
  TANDEM_ASSIGN_OR_RETURN(const LayerVectors vectors, ReadVectors(matrices));
  for (const Sequence& s : sequences_) {
    AddAndNorm(s, nullptr, vectors.norm(model::NormRole::kInput));
  }
  for (const model::HeldMatrix& matrix : matrices) {
    CalibrationStage stage = {.inputs = matrix.input_norm ? normed_.data() : inner_.data(),
                              .tokens = tokens_,
                              .columns = matrix.columns()};
    for (const model::Module& module : matrix.modules) stage.modules.push_back(module.name);
    backend_.Synchronize();
    TANDEM_ASSIGN_OR_RETURN(const auto weight, visit(stage));
    for (const Sequence& s : sequences_) {
      TANDEM_RETURN_IF_ERROR(Multiply(s, matrix, *weight, vectors));
    }
  }
  backend_.Synchronize();
  return absl::OkStatus();
}

absl::Status Calibration::Multiply(const Sequence& s, const model::HeldMatrix& matrix,
                                   const kernels::LinearWeight& weight,
                                   const LayerVectors& vectors) {
  const int64_t inner_columns = config_.num_heads * config_.head_dim;
  const int64_t ffn = config_.intermediate_size;
  const float* x = matrix.input_norm ? &normed_[s.begin * matrix.columns()]
                                     : &inner_[s.begin * matrix.columns()];
  const float* bias = vectors.bias(matrix.role);
  switch (matrix.role) {
    case model::MatrixRole::kQkv:
      backend_.Linear(weight, x, s.tokens, bias, wide_.data());
      return Attend(s, vectors, wide_.data(), &inner_[s.begin * inner_columns]);
    case model::MatrixRole::kGateUp:
      backend_.Linear(weight, x, s.tokens, bias, wide_.data());
      backend_.SiluMul(wide_.data(), s.tokens, ffn, &inner_[s.begin * ffn]);
      return absl::OkStatus();
    case model::MatrixRole::kOutput:
    case model::MatrixRole::kDown:
      backend_.Linear(weight, x, s.tokens, bias, delta_.data());
      // After kDown the norm's output is not used: the next layer has a norm of its own.
      AddAndNorm(s, delta_.data(), vectors.norm(model::NormRole::kPostAttention));
      return absl::OkStatus();
    case model::MatrixRole::kHead:
      break;
  }
  TANDEM_CHECK(false);
}

absl::Status Calibration::Attend(const Sequence& sequence, const LayerVectors& vectors, float* qkv,
                                 float* out) {
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
  backend_.RopeAndCache(
      {.tokens = tokens,
       .q_heads = config_.num_heads,
       .head_dim = config_.head_dim,
       .qkv = qkv,
       .q_norm = config_.qk_norm ? vectors.norm(model::NormRole::kQuery).data() : nullptr,
       .k_norm = config_.qk_norm ? vectors.norm(model::NormRole::kKey).data() : nullptr,
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
