#include "runtime/model/model_tensors.h"

#include "kernels/base/status_macros.h"

namespace tandem::model {

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
                        const HeldMatrix& matrix, const WeightRequests& requests,
                        const kernels::DeviceLayout& device) {
  std::vector<WeightFormat> stored;
  for (const Module& module : matrix.modules) {
    WeightFormat format = StoredFormat(config, checkpoint, module);
    if (format.quant && !device.SupportsFormat(*format.quant)) format.quant.reset();
    stored.push_back(format);
  }
  return (matrix.role == MatrixRole::kHead ? requests.head : requests.body).OfAll(stored);
}

std::vector<loader::ExpectedTensor> ExpectedTensors(const loader::ModelConfig& config,
                                                    const loader::Checkpoint* checkpoint) {
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
    for (const HeldMatrix& matrix : LayerMatrices(config, layer)) {
      if (matrix.input_norm)
        tensors.push_back({matrix.input_norm->name, {matrix.input_norm->size}});
      for (const Module& module : matrix.modules) add_module(module);
      for (const Norm& norm : matrix.output_norms) tensors.push_back({norm.name, {norm.size}});
    }
  }
  tensors.push_back({std::string(kFinalNorm), {config.hidden_size}});
  if (!config.tie_word_embeddings) add_module(HeadModule(config));
  return tensors;
}

absl::Status CheckTensors(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint) {
  if (config.quantization) {
    const auto check = [&](const Module& module) {
      return config.quantization->FindScheme(module.name, module.kind()).status();
    };
    TANDEM_RETURN_IF_ERROR(check(EmbeddingModule(config)));
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (const HeldMatrix& matrix : LayerMatrices(config, layer)) {
        for (const Module& module : matrix.modules) TANDEM_RETURN_IF_ERROR(check(module));
      }
    }
    TANDEM_RETURN_IF_ERROR(check(HeadModule(config)));
  }
  return checkpoint.CheckPresent(ExpectedTensors(config, &checkpoint));
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
