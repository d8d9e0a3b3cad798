// Inverse frequencies of the rotary embedding, [head_dim / 2] in radians per
// position, as Transformers computes them in float32.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/loader/model_config.h"

namespace tandem::loader {

// Element j turns dimensions j and j + head_dim / 2 of a head. The same bits on
// every host. head_dim is even and positive (hf_config has made sure).
// RopeConfig::attention_factor is not in them: it scales cos and sin.
std::vector<float> InverseFrequencies(const RopeConfig& rope, int64_t head_dim);

}  // namespace tandem::loader
