// The rotary embedding's part of config.json, in its three spellings:
// rope_theta alone, rope_theta with rope_scaling, and rope_parameters.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/base/json_field.h"
#include "runtime/loader/model_config.h"

namespace tandem::loader {

// `fields` is the root of config.json. Errors as in hf_config.h.
absl::StatusOr<RopeConfig> ReadRope(const json::Field& fields, int64_t max_position_embeddings);

}  // namespace tandem::loader
