#include "runtime/loader/hf_config.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/json.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/rope_config.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxConfigBytes = 4 << 20;
constexpr int kMaxDepth = 16;

// Far above any published model, and low enough that the product of any three
// of them, in bytes, stays below 2^63: nobody downstream has to check again.
constexpr int64_t kMaxHidden = 1 << 18;
constexpr int64_t kMaxIntermediate = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 512;  // KvCacheView::kMaxHeadDim
constexpr int64_t kMaxVocab = 1 << 22;
constexpr int64_t kMaxPositions = 1 << 30;

// What differs between the families; everything else is a field of ModelConfig.
struct Family {
  const char* architecture;
  const char* model_type;
  bool qk_norm;
  bool has_mlp_bias;  // reads mlp_bias; the other has none, whatever is written
  int64_t head_dim;   // when absent; 0: hidden_size / num_attention_heads
  bool reads_sliding_window_switch;
};
constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", false, true, 0, false},
    // Qwen3Config's own default is 128, not the quotient: hidden_size /
    // num_attention_heads is 80 in Qwen3-4B.
    {"Qwen3ForCausalLM", "qwen3", true, false, 128, true},
};

// Fields of other families, and of derived ones that kept the name of theirs,
// that change the arithmetic. `neutral` is the value that does not.
struct Foreign {
  const char* field;
  std::optional<double> neutral;
};
constexpr Foreign kForeign[] = {
    {"num_experts", 0.0},
    {"num_local_experts", 0.0},
    {"n_routed_experts", 0.0},
    {"moe_intermediate_size", 0.0},
    {"kv_lora_rank", 0.0},
    {"logits_scaling", 1.0},
    {"logit_scale", 1.0},
    {"lm_head_multiplier", 1.0},
    {"embedding_multiplier", 1.0},
    {"residual_multiplier", 1.0},
    {"attention_multiplier", std::nullopt},
    {"scale_emb", 1.0},
    {"scale_depth", std::nullopt},
    {"dim_model_base", std::nullopt},
    {"query_pre_attn_scalar", std::nullopt},
    {"attn_logit_softcapping", 0.0},
    {"final_logit_softcapping", 0.0},
    {"clip_qkv", std::nullopt},
    {"attention_chunk_size", std::nullopt},
    {"no_rope_layers", std::nullopt},
    {"no_rope_layer_interval", std::nullopt},
    {"use_qk_norm", 0.0},
    {"alibi", 0.0},
    {"use_alibi", 0.0},
    {"partial_rotary_factor", 1.0},
    {"rotary_pct", 1.0},
    // Slices of each product added up in another order.
    {"pretraining_tp", 1.0},
};

absl::StatusOr<Family> FindFamily(const json::Field& fields) {
  std::string supported;
  for (const Family& family : kFamilies) {
    absl::StrAppend(&supported, supported.empty() ? "" : " or ", family.architecture);
  }
  const Json* architectures = fields.Value("architectures");
  if (architectures == nullptr || !architectures->is_array() || architectures->size() != 1 ||
      !architectures->front().is_string()) {
    return fields.Wrong("architectures", absl::StrCat("a list of one name: ", supported));
  }
  for (const Family& family : kFamilies) {
    if (architectures->front() != family.architecture) continue;
    TANDEM_ASSIGN_OR_RETURN(const auto model_type, fields.String("model_type"));
    if (model_type && *model_type != family.model_type) {
      return fields.Wrong("model_type", absl::StrCat("\"", family.model_type,
                                                     "\" as architectures has it; one of the two "
                                                     "is wrong"));
    }
    return family;
  }
  return fields.Unsupported("architectures",
                            absl::StrCat(supported, "; use a model of a supported family"));
}

// compression_config is the name in older folders of compressed-tensors.
absl::Status ReadQuantization(const json::Field& fields, std::string_view text,
                              ModelConfig& config) {
  for (const char* field : {"quantization_config", "compression_config"}) {
    const Json* quantization = fields.Value(field);
    if (quantization == nullptr) continue;
    TANDEM_ASSIGN_OR_RETURN(config.quantization,
                            QuantizationConfig::Parse(fields.place(), field, *quantization, text));
    break;
  }
  return absl::OkStatus();
}

absl::Status CheckForeign(const json::Field& fields) {
  for (const Foreign& foreign : kForeign) {
    const Json* value = fields.Value(foreign.field);
    if (value == nullptr) continue;
    if (foreign.neutral) {
      if (value->is_number() && value->get<double>() == *foreign.neutral) continue;
      if (value->is_boolean() && value->get<bool>() == (*foreign.neutral != 0)) continue;
    }
    return fields.Unsupported(
        foreign.field,
        absl::StrCat(foreign.neutral ? absl::StrCat(*foreign.neutral, " or ") : "",
                     "no such field; this model needs arithmetic that is not supported"));
  }
  return absl::OkStatus();
}

absl::Status CheckFullAttention(const json::Field& fields, const Family& family,
                                int64_t num_layers) {
  TANDEM_ASSIGN_OR_RETURN(const auto use_window, fields.Bool("use_sliding_window"));
  if (use_window.value_or(false)) {
    return fields.Unsupported("use_sliding_window",
                              "false; sliding-window attention is not supported");
  }
  // Qwen3 writes a window and a switch that is off by default. Elsewhere a
  // window is one unless the switch is there and off.
  if (!family.reads_sliding_window_switch && !use_window &&
      fields.Value("sliding_window") != nullptr) {
    return fields.Unsupported("sliding_window", "null; sliding-window attention is not supported");
  }
  const Json* layer_types = fields.Value("layer_types");
  if (layer_types == nullptr) return absl::OkStatus();
  if (!layer_types->is_array() || static_cast<int64_t>(layer_types->size()) != num_layers) {
    return fields.Wrong("layer_types",
                        absl::StrCat("a list of num_hidden_layers = ", num_layers, " names"));
  }
  for (size_t i = 0; i < layer_types->size(); ++i) {
    const Json& type = (*layer_types)[i];
    if (type == "full_attention") continue;
    return absl::UnimplementedError(absl::StrCat(fields.place(), ": layer_types[", i, "]: found ",
                                                 json::Shown(type),
                                                 ", expected \"full_attention\"; other kinds of "
                                                 "attention are not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadShapes(const json::Field& fields, const Family& family, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.hidden_size, fields.RequiredInt("hidden_size", 1, kMaxHidden));
  TANDEM_ASSIGN_OR_RETURN(config.intermediate_size,
                          fields.RequiredInt("intermediate_size", 1, kMaxIntermediate));
  TANDEM_ASSIGN_OR_RETURN(config.num_layers,
                          fields.RequiredInt("num_hidden_layers", 1, kMaxLayers));
  TANDEM_ASSIGN_OR_RETURN(config.num_heads,
                          fields.RequiredInt("num_attention_heads", 1, kMaxHeads));
  TANDEM_ASSIGN_OR_RETURN(config.vocab_size, fields.RequiredInt("vocab_size", 1, kMaxVocab));
  TANDEM_ASSIGN_OR_RETURN(config.max_position_embeddings,
                          fields.RequiredInt("max_position_embeddings", 1, kMaxPositions));

  // Transformers' Qwen3Config would put 32 for an absent one; a published model
  // writes it, and null means as many as query heads in both families.
  TANDEM_ASSIGN_OR_RETURN(const auto kv_heads, fields.Int("num_key_value_heads", 1, kMaxHeads));
  config.num_kv_heads = kv_heads.value_or(config.num_heads);
  if (config.num_heads % config.num_kv_heads != 0) {
    return fields.Wrong("num_key_value_heads",
                        absl::StrCat("a divisor of num_attention_heads = ", config.num_heads,
                                     ": each KV head serves the same number of query heads"));
  }

  TANDEM_ASSIGN_OR_RETURN(const auto head_dim, fields.Int("head_dim", 1, kMaxHeadDim));
  if (head_dim) {
    config.head_dim = *head_dim;
  } else if (family.head_dim != 0) {
    config.head_dim = family.head_dim;
  } else if (config.hidden_size % config.num_heads != 0) {
    return fields.Wrong(
        "head_dim", absl::StrCat("a number, as hidden_size = ", config.hidden_size,
                                 " is no multiple of num_attention_heads = ", config.num_heads));
  } else {
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.head_dim % 2 != 0 || config.head_dim > kMaxHeadDim) {
    return absl::InvalidArgumentError(absl::StrCat(fields.place(), ": head_dim: found ",
                                                   config.head_dim, head_dim ? "" : " (derived)",
                                                   ", expected an even number up to ", kMaxHeadDim,
                                                   ": rotary embeddings turn pairs of dimensions"));
  }
  return absl::OkStatus();
}

absl::Status ReadDType(const json::Field& fields, ModelConfig& config) {
  const char* field = fields.Value("dtype") != nullptr ? "dtype" : "torch_dtype";
  TANDEM_ASSIGN_OR_RETURN(auto name, fields.String(field));
  if (!name || *name == "auto") return absl::OkStatus();
  if (name->rfind("torch.", 0) == 0) name->erase(0, 6);
  if (*name == "bfloat16") {
    config.dtype = kernels::DType::kBF16;
  } else if (*name == "float16") {
    config.dtype = kernels::DType::kF16;
  } else if (*name == "float32") {
    config.dtype = kernels::DType::kF32;
  } else {
    return fields.Unsupported(field, "bfloat16, float16 or float32; convert the weights");
  }
  return absl::OkStatus();
}

absl::Status ReadTokens(const json::Field& fields, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.eos_token_ids, fields.TokenIds("eos_token_id"));
  TANDEM_ASSIGN_OR_RETURN(const auto bos, fields.Int("bos_token_id", 0, config.vocab_size - 1));
  config.bos_token_id = static_cast<int32_t>(bos.value_or(-1));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseConfig(std::string_view text, std::string_view name) {
  TANDEM_ASSIGN_OR_RETURN(const Json root, json::Parse(text, name, kMaxDepth));
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": found ", json::Shown(root),
                                                   ", expected an object of fields"));
  }
  const json::Field fields(root, name);
  TANDEM_ASSIGN_OR_RETURN(const Family family, FindFamily(fields));
  ModelConfig config;
  config.architecture = family.architecture;
  config.qk_norm = family.qk_norm;
  TANDEM_RETURN_IF_ERROR(ReadQuantization(fields, text, config));
  TANDEM_RETURN_IF_ERROR(CheckForeign(fields));
  TANDEM_RETURN_IF_ERROR(ReadShapes(fields, family, config));
  TANDEM_RETURN_IF_ERROR(CheckFullAttention(fields, family, config.num_layers));

  TANDEM_ASSIGN_OR_RETURN(const auto activation, fields.String("hidden_act"));
  if (activation && *activation != "silu") {
    return fields.Unsupported("hidden_act", "\"silu\"; other activations are not supported");
  }
  TANDEM_ASSIGN_OR_RETURN(const auto eps, fields.Double("rms_norm_eps", 1e-30, 1.0));
  config.rms_norm_eps = eps.value_or(1e-6);
  TANDEM_ASSIGN_OR_RETURN(const auto tied, fields.Bool("tie_word_embeddings"));
  config.tie_word_embeddings = tied.value_or(false);
  // One switch for all four projections in both families; Qwen2, which has
  // biases on three, writes no field and is another architecture.
  TANDEM_ASSIGN_OR_RETURN(const auto attention_bias, fields.Bool("attention_bias"));
  config.qkv_bias = config.o_bias = attention_bias.value_or(false);
  TANDEM_ASSIGN_OR_RETURN(const auto mlp_bias, fields.Bool("mlp_bias"));
  config.mlp_bias = family.has_mlp_bias && mlp_bias.value_or(false);

  TANDEM_ASSIGN_OR_RETURN(config.rope, ReadRope(fields, config.max_position_embeddings));
  TANDEM_RETURN_IF_ERROR(ReadDType(fields, config));
  TANDEM_RETURN_IF_ERROR(ReadTokens(fields, config));
  return config;
}

absl::StatusOr<ModelConfig> ReadConfig(const ModelFolder& folder) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text,
                          folder.ReadSmallFile("config.json", kMaxConfigBytes));
  return ParseConfig(text, folder.PathOf("config.json"));
}

}  // namespace tandem::loader
