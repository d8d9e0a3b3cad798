#include "runtime/model/decoder.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/rope_frequencies.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {

using parallel::StepPart;

Decoder::Decoder(const loader::ModelConfig& config, std::unique_ptr<loader::Checkpoint> checkpoint,
                 parallel::ShardPlan plan, kernels::Backend& backend,
                 parallel::Communicator& communicator, const DecoderOptions& options)
    : config_(config),
      checkpoint_(std::move(checkpoint)),
      plan_(std::move(plan)),
      shard_(plan_.ranks[communicator.rank()]),
      backend_(backend),
      communicator_(communicator),
      options_(options) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(
    const loader::ModelConfig& config, std::unique_ptr<loader::Checkpoint> checkpoint,
    parallel::ShardPlan plan, kernels::Backend& backend, parallel::Communicator& communicator,
    const DecoderOptions& options) {
  TANDEM_CHECK(plan.tp == communicator.size());
  std::unique_ptr<Decoder> decoder(
      new Decoder(config, std::move(checkpoint), std::move(plan), backend, communicator, options));
  TANDEM_RETURN_IF_ERROR(decoder->LoadWeights());
  decoder->inverse_frequencies_ = loader::InverseFrequencies(config.rope, config.head_dim);
  TANDEM_ASSIGN_OR_RETURN(decoder->kv_cache_,
                          KvCache::Allocate(backend, {.layers = config.num_layers,
                                                      .blocks = options.num_blocks,
                                                      .kv_heads = decoder->shard_.kv_heads.size(),
                                                      .head_dim = config.head_dim,
                                                      .dtype = options.kv_dtype}));
  Workspace& workspace = decoder->workspace_;
  TANDEM_ASSIGN_OR_RETURN(
      workspace.memory, backend.Allocate(Workspace::Layout(config, decoder->plan_,
                                                           communicator.rank(), options, nullptr)));
  Workspace::Layout(config, decoder->plan_, communicator.rank(), options, &workspace);
  decoder->token_sequence_.reserve(options.max_tokens);
  return decoder;
}

absl::Status Decoder::Forward(const StepInput& input, float* logits) {
  const int64_t tokens = input.num_tokens();
  const int64_t hidden = config_.hidden_size;
  const float epsilon = static_cast<float>(config_.rms_norm_eps);
  TANDEM_CHECK(tokens <= options_.max_tokens && input.num_rows() <= options_.max_rows);
  Workspace& w = workspace_;
  parallel::StepTimer* const timer = options_.timer;

  if (timer != nullptr) timer->BeginStep();
  EnterPart(timer, StepPart::kEmbedding);
  token_sequence_.clear();
  for (int32_t s = 0; s < input.num_sequences(); ++s) {
    token_sequence_.resize(input.cu_seqlens_q[s + 1], s);
  }
  TANDEM_RETURN_IF_ERROR(
      embedding_->Lookup(backend_, input.token_ids.data(), tokens, hidden, w.residual));
  backend_.RopeAngles(input.positions.data(), tokens, inverse_frequencies_.data(),
                      config_.head_dim / 2, static_cast<float>(config_.rope.attention_factor),
                      w.cos, w.sin);

  // Each norm first adds the sub-layer before it to the residual stream.
  const float* delta = nullptr;
  const float* delta_bias = nullptr;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    EnterPart(timer, StepPart::kQkv);
    backend_.AddRmsNorm(delta, delta_bias, w.residual, layer.input_norm.as<float>(), epsilon,
                        tokens, hidden, w.normed);
    TANDEM_RETURN_IF_ERROR(Attention(layer, static_cast<int64_t>(i), input));
    EnterPart(timer, StepPart::kFfn);
    backend_.AddRmsNorm(w.delta, layer.output.bias(), w.residual, layer.post_norm.as<float>(),
                        epsilon, tokens, hidden, w.normed);
    TANDEM_RETURN_IF_ERROR(FeedForward(layer, tokens));
    delta = w.delta;
    delta_bias = layer.down.bias();
  }
  EnterPart(timer, StepPart::kHead);
  backend_.AddRmsNorm(delta, delta_bias, w.residual, final_norm_.as<float>(), epsilon, tokens,
                      hidden, w.normed);

  const int64_t rows = input.num_rows();
  backend_.GatherRows(w.normed, input.logits_indices.data(), rows, hidden, w.rows);
  head_.Forward(backend_, w.rows, rows, w.logits);
  backend_.Synchronize();
  return communicator_.GatherColumns(w.logits, rows, plan_.vocab_widths, logits);
}

absl::Status Decoder::Attention(const Layer& layer, int64_t index, const StepInput& input) {
  Workspace& w = workspace_;
  const int64_t tokens = input.num_tokens();
  const int64_t heads = shard_.heads.size();
  const kernels::KvCacheView cache = kv_cache_.layer(index);
  layer.qkv.Forward(backend_, w.normed, tokens, w.qkv);
  EnterPart(options_.timer, StepPart::kAttention);
  backend_.RopeAndCache({.tokens = tokens,
                         .q_heads = heads,
                         .head_dim = config_.head_dim,
                         .qkv = w.qkv,
                         .q_norm = layer.q_norm.as<float>(),
                         .k_norm = layer.k_norm.as<float>(),
                         .norm_epsilon = static_cast<float>(config_.rms_norm_eps),
                         .cos = w.cos,
                         .sin = w.sin,
                         .slot_mapping = input.slot_mapping.data(),
                         .cache = cache});
  backend_.PagedAttention({.tokens = tokens,
                           .q_heads = heads,
                           .head_dim = config_.head_dim,
                           .qkv = w.qkv,
                           .qkv_stride = layer.qkv.rows(),
                           .positions = input.positions.data(),
                           .token_sequence = token_sequence_.data(),
                           .block_tables = input.block_tables.data(),
                           .max_blocks = input.max_blocks,
                           .head_to_kv = shard_.head_to_kv.data(),
                           .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                           .cache = cache,
                           .out = w.attention});
  EnterPart(options_.timer, StepPart::kOutput);
  return layer.output.Forward(backend_, communicator_, plan_.attention_tree, w.attention, tokens,
                              w.partials, w.delta);
}

absl::Status Decoder::FeedForward(const Layer& layer, int64_t tokens) {
  Workspace& w = workspace_;
  layer.gate_up.Forward(backend_, w.normed, tokens, w.gate_up);
  backend_.SiluMul(w.gate_up, tokens, shard_.ffn.size(), w.activated);
  return layer.down.Forward(backend_, communicator_, plan_.ffn_tree, w.activated, tokens,
                            w.partials, w.delta);
}

DecoderBytes Decoder::bytes() const {
  return {
      .weights = weight_bytes_, .kv = kv_cache_.bytes(), .workspace = workspace_.memory.bytes()};
}

}  // namespace tandem::model
