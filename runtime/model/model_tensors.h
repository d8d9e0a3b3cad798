// Names and shapes of a checkpoint's tensors, as Transformers writes Llama and
// Qwen3. The families differ in ModelConfig's flags alone.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/shard_plan.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/quantized_tensors.h"
#include "runtime/model/weight_format.h"

namespace tandem::model {

inline constexpr std::string_view kEmbedding = "model.embed_tokens";
inline constexpr std::string_view kFinalNorm = "model.norm.weight";
inline constexpr std::string_view kHead = "lm_head";

// "model.layers.LAYER.part"
std::string LayerTensor(int64_t layer, std::string_view part);

// A matrix of the model: `module` without ".weight".
struct Module {
  std::string name;
  int64_t rows = 0;
  int64_t columns = 0;
  bool has_bias = false;  // by config.json

  loader::ModuleClass kind() const {
    return name == kEmbedding ? loader::ModuleClass::kEmbedding : loader::ModuleClass::kLinear;
  }
};

// The matrices of a layer.
struct LayerModules {
  Module q, k, v, o, gate, up, down;
};
LayerModules ModulesOf(const loader::ModelConfig& config, int64_t layer);
Module EmbeddingModule(const loader::ModelConfig& config);
Module HeadModule(const loader::ModelConfig& config);  // the embedding, where they are tied

// How the checkpoint stores it: null where in elements. Quantized by config.json and
// not the plain tensor in its place.
const loader::QuantizedScheme* SchemeOf(const loader::ModelConfig& config,
                                        const loader::Checkpoint& checkpoint, const Module& module);

// Biases of quantized modules are used where there are some, whatever config.json says.
bool HasBias(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
             const Module& module);

// As stored, from headers alone.
WeightFormat StoredFormat(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                          const Module& module);

// As held by ranks that keep the modules as one matrix, from headers alone. Codes that the
// device does not multiply are held as elements.
WeightFormat HeldFormat(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                        std::initializer_list<const Module*> modules, const WeightRequest& request,
                        const kernels::DeviceLayout& device);

// Every tensor that the model needs: as this checkpoint stores it, or, with none, as
// an unquantized one would.
std::vector<loader::ExpectedTensor> ExpectedTensors(const loader::ModelConfig& config,
                                                    const loader::Checkpoint* checkpoint);

parallel::ModelShape ShapeOf(const loader::ModelConfig& config);

}  // namespace tandem::model
