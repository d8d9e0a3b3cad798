#include "runtime/model/model_tensors.h"

namespace tandem::model {

std::string LayerTensor(int64_t layer, std::string_view part) {
  return "model.layers." + std::to_string(layer) + "." + std::string(part);
}

LayerModules ModulesOf(const loader::ModelConfig& config, int64_t layer) {
  const int64_t hidden = config.hidden_size;
  const int64_t inner = config.intermediate_size;
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t kv = config.num_kv_heads * config.head_dim;
  return {.q = {LayerTensor(layer, "self_attn.q_proj"), q, hidden, config.qkv_bias},
          .k = {LayerTensor(layer, "self_attn.k_proj"), kv, hidden, config.qkv_bias},
          .v = {LayerTensor(layer, "self_attn.v_proj"), kv, hidden, config.qkv_bias},
          .o = {LayerTensor(layer, "self_attn.o_proj"), hidden, q, config.o_bias},
          .gate = {LayerTensor(layer, "mlp.gate_proj"), inner, hidden, config.mlp_bias},
          .up = {LayerTensor(layer, "mlp.up_proj"), inner, hidden, config.mlp_bias},
          .down = {LayerTensor(layer, "mlp.down_proj"), hidden, inner, config.mlp_bias}};
}

Module EmbeddingModule(const loader::ModelConfig& config) {
  return {std::string(kEmbedding), config.vocab_size, config.hidden_size};
}

Module HeadModule(const loader::ModelConfig& config) {
  return {std::string(config.tie_word_embeddings ? kEmbedding : kHead), config.vocab_size,
          config.hidden_size};
}

const loader::QuantizedScheme* SchemeOf(const loader::ModelConfig& config,
                                        const loader::Checkpoint& checkpoint,
                                        const Module& module) {
  if (!config.quantization) return nullptr;
  const loader::QuantizedScheme* scheme = config.quantization->SchemeOf(module.name, module.kind());
  if (scheme == nullptr) return nullptr;
  const bool plain = !loader::HasQuantized(*scheme, checkpoint, module.name) &&
                     checkpoint.Has(module.name + ".weight");
  return plain ? nullptr : scheme;
}

bool HasBias(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
             const Module& module) {
  return module.has_bias ||
         (SchemeOf(config, checkpoint, module) != nullptr && checkpoint.Has(module.name + ".bias"));
}

WeightFormat StoredFormat(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                          const Module& module) {
  const loader::QuantizedScheme* scheme = SchemeOf(config, checkpoint, module);
  if (scheme != nullptr) {
    return {.dtype = kernels::DType::kBF16,
            .quant = loader::QuantizedFormat(*scheme, checkpoint, module.name, module.columns)};
  }
  // A tensor that is missing or unusable is refused when it is loaded.
  const auto info = checkpoint.Find(module.name + ".weight");
  const bool known = info.ok() && (*info)->dtype.has_value();
  return {.dtype = known ? *(*info)->dtype : config.dtype, .quant = std::nullopt};
}

WeightFormat HeldFormat(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                        std::initializer_list<const Module*> modules, const WeightRequest& request,
                        const kernels::DeviceLayout& device) {
  std::vector<WeightFormat> stored;
  for (const Module* module : modules) {
    WeightFormat format = StoredFormat(config, checkpoint, *module);
    if (format.quant && !device.Multiplies(*format.quant)) format.quant.reset();
    stored.push_back(format);
  }
  return request.OfAll(stored);
}

std::vector<loader::ExpectedTensor> ExpectedTensors(const loader::ModelConfig& config,
                                                    const loader::Checkpoint* checkpoint) {
  const int64_t hidden = config.hidden_size;
  std::vector<loader::ExpectedTensor> tensors;
  const auto add_module = [&](const Module& module) {
    const loader::QuantizedScheme* scheme =
        checkpoint == nullptr ? nullptr : SchemeOf(config, *checkpoint, module);
    if (scheme == nullptr) {
      tensors.push_back({module.name + ".weight", {module.rows, module.columns}});
    } else {
      for (loader::ExpectedTensor& tensor : loader::QuantizedTensors(
               *scheme, *checkpoint, module.name, module.rows, module.columns)) {
        tensors.push_back(std::move(tensor));
      }
    }
    if (checkpoint == nullptr ? module.has_bias : HasBias(config, *checkpoint, module)) {
      tensors.push_back({module.name + ".bias", {module.rows}});
    }
  };
  add_module(EmbeddingModule(config));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const LayerModules modules = ModulesOf(config, layer);
    const auto add = [&](std::string_view part, int64_t size) {
      tensors.push_back({LayerTensor(layer, part), {size}});
    };
    add("input_layernorm.weight", hidden);
    for (const Module* module : {&modules.q, &modules.k, &modules.v}) add_module(*module);
    if (config.qk_norm) {
      add("self_attn.q_norm.weight", config.head_dim);
      add("self_attn.k_norm.weight", config.head_dim);
    }
    add_module(modules.o);
    add("post_attention_layernorm.weight", hidden);
    for (const Module* module : {&modules.gate, &modules.up, &modules.down}) add_module(*module);
  }
  tensors.push_back({std::string(kFinalNorm), {hidden}});
  if (!config.tie_word_embeddings) add_module(HeadModule(config));
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
