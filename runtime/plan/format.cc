#include "runtime/plan/format.h"

#include <functional>
#include <numeric>

#include "kernels/base/check.h"
#include "runtime/model/model_tensors.h"

namespace tandem::plan {
namespace {

constexpr int64_t kQuantGroup = 32;
constexpr int64_t kFp8Block = 128;

int64_t Ceil(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

}  // namespace

const char* FormatName(Format format) {
  switch (format) {
    case Format::kFp32:
      return "fp32";
    case Format::kBf16:
      return "bf16";
    case Format::kInt8:
      return "int8";
    case Format::kInt4:
      return "int4";
    case Format::kFp8:
      return "fp8";
  }
  TANDEM_CHECK(false);
}

std::optional<Format> FormatByName(const std::string& name) {
  for (const Format format : kFormats) {
    if (name == FormatName(format)) return format;
  }
  return std::nullopt;
}

model::WeightFormat HeldAs(Format format, bool is_head, const kernels::DeviceLayout& device) {
  using kernels::DType;
  const auto quantized = [](int bits) {
    return model::WeightFormat{
        DType::kBF16,
        kernels::QuantFormat{.bits = bits, .group_size = kQuantGroup, .scale_dtype = DType::kF16}};
  };
  switch (format) {
    case Format::kFp32:
      return model::WeightFormat{DType::kF32};
    case Format::kBf16:
      return model::WeightFormat{DType::kBF16};
    case Format::kInt8:
      return quantized(8);
    case Format::kInt4:
      return quantized(is_head ? 8 : 4);
    case Format::kFp8: {
      const kernels::QuantFormat floats = {.bits = 8,
                                           .group_size = kFp8Block,
                                           .scale_dtype = DType::kF32,
                                           .code_type = kernels::CodeType::kFloat8};
      if (is_head || !device.SupportsFormat(floats)) return model::WeightFormat{DType::kBF16};
      return model::WeightFormat{DType::kBF16, floats};
    }
  }
  TANDEM_CHECK(false);
}

uint64_t StorageBytes(const loader::ModelConfig& config, Format format) {
  uint64_t bytes = 0;
  const uint64_t float_bytes = format == Format::kFp32 ? 4 : 2;
  const std::string embedding = std::string(model::kEmbedding) + ".weight";
  const std::string head = std::string(model::kHead) + ".weight";
  for (const loader::ExpectedTensor& tensor : model::ExpectedTensors(config, nullptr)) {
    const uint64_t elements =
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), uint64_t{1}, std::multiplies<>());
    const bool table = tensor.name == embedding || tensor.name == head;
    if (tensor.shape.size() < 2 || format == Format::kFp32 || format == Format::kBf16) {
      bytes += elements * float_bytes;
    } else if (format == Format::kFp8) {
      bytes += table ? elements * 2
                     : elements + Ceil(tensor.shape[0], kFp8Block) *
                                      Ceil(tensor.shape[1], kFp8Block) * sizeof(float);
    } else {
      const uint64_t bits = format == Format::kInt4 && !table ? 4 : 8;
      bytes += elements * bits / 8;
      bytes += tensor.shape[0] * Ceil(tensor.shape[1], kQuantGroup) * 2;  // scales
    }
  }
  return bytes;
}

}  // namespace tandem::plan
