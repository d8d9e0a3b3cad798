#include "runtime/model/model_tensors.h"

namespace tandem::model {

std::string LayerTensor(int64_t layer, std::string_view part) {
  return "model.layers." + std::to_string(layer) + "." + std::string(part);
}

std::vector<loader::ExpectedTensor> ExpectedTensors(const loader::ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  std::vector<loader::ExpectedTensor> tensors;
  tensors.push_back({std::string(kEmbedding), {config.vocab_size, hidden}});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto add = [&](std::string_view part, std::vector<int64_t> shape) {
      tensors.push_back({LayerTensor(layer, part), std::move(shape)});
    };
    add("input_layernorm.weight", {hidden});
    add("self_attn.q_proj.weight", {q, hidden});
    add("self_attn.k_proj.weight", {kv, hidden});
    add("self_attn.v_proj.weight", {kv, hidden});
    if (config.qkv_bias) {
      add("self_attn.q_proj.bias", {q});
      add("self_attn.k_proj.bias", {kv});
      add("self_attn.v_proj.bias", {kv});
    }
    if (config.qk_norm) {
      add("self_attn.q_norm.weight", {config.head_dim});
      add("self_attn.k_norm.weight", {config.head_dim});
    }
    add("self_attn.o_proj.weight", {hidden, q});
    if (config.o_bias) add("self_attn.o_proj.bias", {hidden});
    add("post_attention_layernorm.weight", {hidden});
    add("mlp.gate_proj.weight", {inner, hidden});
    add("mlp.up_proj.weight", {inner, hidden});
    add("mlp.down_proj.weight", {hidden, inner});
    if (config.mlp_bias) {
      add("mlp.gate_proj.bias", {inner});
      add("mlp.up_proj.bias", {inner});
      add("mlp.down_proj.bias", {hidden});
    }
  }
  tensors.push_back({std::string(kFinalNorm), {hidden}});
  if (!config.tie_word_embeddings)
    tensors.push_back({std::string(kHead), {config.vocab_size, hidden}});
  return tensors;
}

parallel::ModelShape ShapeOf(const loader::ModelConfig& config) {
  return {.hidden = config.hidden_size,
          .intermediate = config.intermediate_size,
          .heads = config.num_heads,
          .kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .vocab = config.vocab_size};
}

}  // namespace tandem::model
