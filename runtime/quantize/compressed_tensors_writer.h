// A quantized module as the compressed-tensors package stores it in its format
// "pack-quantized" (https://github.com/vllm-project/compressed-tensors):
//
//   MODULE.weight_packed      I32 [rows, ceil(columns * bits / 32)]: codes plus
//                             2^(bits - 1), so from 0, the first in the low bits
//   MODULE.weight_scale       [rows, groups] in the type of the unquantized weight
//   MODULE.weight_zero_point  I32 [ceil(rows * bits / 32), groups], packed likewise
//                             along the rows; only with zero points
//   MODULE.weight_shape       I64 [2]: rows, columns
//
// and its value is scale * (code - zero).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "runtime/quantize/safetensors_writer.h"

namespace tandem::quantize {

// The tensors of a module [rows, columns]; format.scale_dtype is what its scales
// are stored in. Groups must divide the columns.
std::vector<OutputTensor> PackedTensors(const std::string& module, int64_t rows, int64_t columns,
                                        const kernels::QuantFormat& format);

// Codes [rows, columns], as QuantFormat has them, in words of 32 bits, row by row.
std::vector<uint32_t> PackCodes(const int8_t* codes, int64_t rows, int64_t columns, int bits);

// Zero points [rows, groups] in words along the rows.
std::vector<uint32_t> PackZeroPoints(const uint8_t* zeros, int64_t rows, int64_t groups, int bits);

// Scales in their stored type.
std::vector<std::byte> StoreScales(std::span<const float> scales, kernels::DType dtype);

// Modules that are quantized alike. Targets are names or "re:" and a regular
// expression that matches from a name's start.
struct ConfigGroup {
  kernels::QuantFormat format;
  std::vector<std::string> targets;
};

// quantization_config of config.json. `ignore` names modules left as they were.
nlohmann::json PackedConfig(const std::vector<ConfigGroup>& groups,
                            const std::vector<std::string>& ignore);

}  // namespace tandem::quantize
