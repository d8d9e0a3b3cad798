// Element types of weights and KV cache, as safetensors names them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace tandem::kernels {

enum class DType : uint8_t { kF32, kF16, kBF16 };

// Bytes of one element.
constexpr size_t DTypeSize(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

constexpr std::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
  }
  return "?";
}

}  // namespace tandem::kernels
