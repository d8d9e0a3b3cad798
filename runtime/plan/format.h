// The formats of weights that a plan compares.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "kernels/device_layout.h"
#include "runtime/loader/model_config.h"
#include "runtime/model/weight_format.h"

namespace tandem::plan {

enum class Format { kFp32, kBf16, kInt8, kInt4, kFp8 };
inline constexpr Format kFormats[] = {Format::kFp32, Format::kBf16, Format::kInt8, Format::kInt4,
                                      Format::kFp8};
const char* FormatName(Format format);
std::optional<Format> FormatByName(const std::string& name);

// How a matrix is held in a format. INT8 and INT4: groups of 32 with 16-bit scales, the head in 8
// bits. FP8: groups of 128 with FP32 scales, the head in 16 bits; devices that cannot multiply FP8
// hold all of it in 16 bits.
model::WeightFormat HeldAs(Format format, bool is_head, const kernels::DeviceLayout& device);

// Bytes of the whole model as files store it, embedding and scales included. FP8 has an FP32 scale
// for each 128 x 128 block and a 16-bit head; INT8 and INT4 have embedding and head in 8 bits.
// Norms are in FP32 for FP32, else in 16 bits.
uint64_t StorageBytes(const loader::ModelConfig& config, Format format);

}  // namespace tandem::plan
