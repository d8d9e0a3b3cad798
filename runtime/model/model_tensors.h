// Names and shapes of a checkpoint's tensors, as Transformers writes Llama and
// Qwen3. The families differ in ModelConfig's flags alone.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "parallel/shard_plan.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"

namespace tandem::model {

inline constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
inline constexpr std::string_view kFinalNorm = "model.norm.weight";
inline constexpr std::string_view kHead = "lm_head.weight";

// "model.layers.LAYER.part"
std::string LayerTensor(int64_t layer, std::string_view part);

// Every tensor that the model needs.
std::vector<loader::ExpectedTensor> ExpectedTensors(const loader::ModelConfig& config);

parallel::ModelShape ShapeOf(const loader::ModelConfig& config);

}  // namespace tandem::model
