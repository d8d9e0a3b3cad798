// What the decoder needs to know of a model, independent of the family that
// wrote it. Filled from config.json by hf_config; model families are data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/dtype.h"
#include "runtime/loader/quantization_config.h"

namespace tandem::loader {

// How rotary frequencies are stretched beyond the trained context. Formulas as
// in Hugging Face Transformers' modeling_rope_utils (float32 arithmetic).
struct RopeConfig {
  enum class Kind : uint8_t { kDefault, kLinear, kLlama3, kYarn };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  int64_t original_max_position_embeddings = 0;  // llama3, yarn
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3
  double beta_fast = 32.0;                       // yarn
  double beta_slow = 1.0;                        // yarn
  bool truncate = true;                          // yarn
  // Both cos and sin are multiplied by it (yarn); 1 elsewhere. hf_config has
  // resolved attention_factor, mscale and mscale_all_dim into it.
  double attention_factor = 1.0;

  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM", "Qwen3ForCausalLM"
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // q_proj, k_proj, v_proj carry biases
  bool o_bias = false;    // o_proj carries one
  bool mlp_bias = false;  // gate_proj, up_proj, down_proj
  bool qk_norm = false;   // RMSNorm over head_dim of q and k before RoPE (Qwen3)
  // What config.json says the weights are (torch_dtype or dtype); the tensors'
  // own headers decide what is loaded.
  kernels::DType dtype = kernels::DType::kBF16;
  std::optional<QuantizationConfig> quantization;  // where the weights are quantized
  std::vector<int32_t> eos_token_ids;              // config.json; generation_config.json wins
  int32_t bos_token_id = -1;                       // -1: none
};

}  // namespace tandem::loader
