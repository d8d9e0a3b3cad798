#include "runtime/quantize/compressed_tensors_writer.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"

namespace tandem::quantize {
namespace {

using kernels::DType;

int64_t Words(int64_t codes, int bits) { return (codes * bits + 31) / 32; }

}  // namespace

std::vector<OutputTensor> PackedTensors(const std::string& module, int64_t rows, int64_t columns,
                                        const kernels::QuantFormat& format) {
  TANDEM_CHECK(columns % format.group_size == 0);
  const int64_t groups = columns / format.group_size;
  std::vector<OutputTensor> tensors = {
      {module + ".weight_packed", "I32", {rows, Words(columns, format.bits)}},
      {module + ".weight_scale", std::string(DTypeName(format.scale_dtype)), {rows, groups}},
      {module + ".weight_shape", "I64", {2}}};
  if (format.zero_points) {
    tensors.push_back({module + ".weight_zero_point", "I32", {Words(rows, format.bits), groups}});
  }
  return tensors;
}

std::vector<uint32_t> PackCodes(const int8_t* codes, int64_t rows, int64_t columns, int bits) {
  // With 4 bits codes run from 0 already; 8-bit ones are signed.
  const int offset = bits == 8 ? 128 : 0;
  const int64_t words = Words(columns, bits);
  const int per_word = 32 / bits;
  std::vector<uint32_t> packed(rows * words);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t j = 0; j < columns; ++j) {
      const auto code = static_cast<uint32_t>(codes[row * columns + j] + offset);
      packed[row * words + j / per_word] |= code << (j % per_word * bits);
    }
  }
  return packed;
}

std::vector<uint32_t> PackZeroPoints(const uint8_t* zeros, int64_t rows, int64_t groups, int bits) {
  const int per_word = 32 / bits;
  std::vector<uint32_t> packed(Words(rows, bits) * groups);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      packed[row / per_word * groups + g] |= uint32_t{zeros[row * groups + g]}
                                             << (row % per_word * bits);
    }
  }
  return packed;
}

std::vector<std::byte> StoreScales(std::span<const float> scales, DType dtype) {
  std::vector<std::byte> bytes(scales.size() * DTypeSize(dtype));
  for (size_t i = 0; i < scales.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(bytes.data() + 4 * i, &scales[i], 4);
      continue;
    }
    const uint16_t half =
        dtype == DType::kF16 ? kernels::FloatToF16(scales[i]) : kernels::FloatToBf16(scales[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

nlohmann::json PackedConfig(const std::vector<ConfigGroup>& groups,
                            const std::vector<std::string>& ignore) {
  nlohmann::json config = {
      {"quant_method", "compressed-tensors"}, {"format", "pack-quantized"},
      {"quantization_status", "compressed"},  {"ignore", ignore},
      {"kv_cache_scheme", nullptr},           {"config_groups", nlohmann::json::object()}};
  for (size_t i = 0; i < groups.size(); ++i) {
    const kernels::QuantFormat& format = groups[i].format;
    config["config_groups"][absl::StrCat("group_", i)] = {{"targets", groups[i].targets},
                                                          {"weights",
                                                           {{"num_bits", format.bits},
                                                            {"type", "int"},
                                                            {"symmetric", !format.zero_points},
                                                            {"strategy", "group"},
                                                            {"group_size", format.group_size},
                                                            {"dynamic", false}}},
                                                          {"input_activations", nullptr},
                                                          {"output_activations", nullptr}};
  }
  return config;
}

}  // namespace tandem::quantize
