// One layer's paged KV cache on one rank, as kernels see it. A block holds 16 positions. The
// elements of one KV head in a block are contiguous, so that attention reads one stream for each
// head.
//
// Elements come in packs of as many as a 32-bit lane holds (except fp16, which is widened one by
// one), packed along the inner dimension of each product, as dot-product instructions take them:
//   K of a head: [head_dim / pack, 16 positions, pack]: a lane is a position
//   V of a head: [16 / pack, v_stride, pack]:           a lane is a dimension
// In int8 each position has an fp32 scale for K and one for V; the 16 scales follow the head's
// codes: value = scale * code. K codes are stored plus 128, unsigned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/base/dtype.h"

namespace tandem::kernels {

enum class KvDType : uint8_t { kF32, kF16, kBF16, kI8 };

constexpr std::string_view KvDTypeName(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF32:
      return "F32";
    case KvDType::kF16:
      return "F16";
    case KvDType::kBF16:
      return "BF16";
    case KvDType::kI8:
      return "I8";
  }
  return "?";
}

constexpr KvDType KvDTypeOf(DType dtype) {
  switch (dtype) {
    case DType::kF16:
      return KvDType::kF16;
    case DType::kBF16:
      return KvDType::kBF16;
    default:
      return KvDType::kF32;
  }
}

struct KvCacheView {
  static constexpr int64_t kBlock = 16;  // positions
  // Wider heads would overflow the integer sums of int8.
  static constexpr int64_t kMaxHeadDim = 512;

  KvDType dtype = KvDType::kF32;
  void* k = nullptr;  // [blocks, kv_heads, k_head_bytes()]
  void* v = nullptr;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // even, at most kMaxHeadDim

  constexpr int64_t element_bytes() const {
    return dtype == KvDType::kF32 ? 4 : dtype == KvDType::kI8 ? 1 : 2;
  }
  constexpr int64_t pack() const {
    return dtype == KvDType::kI8 ? 4 : dtype == KvDType::kBF16 ? 2 : 1;
  }
  constexpr int64_t v_stride() const { return (head_dim + 15) / 16 * 16; }
  constexpr int64_t k_packs() const { return (head_dim + pack() - 1) / pack(); }

  constexpr int64_t k_code_bytes() const { return k_packs() * kBlock * pack() * element_bytes(); }
  constexpr int64_t v_code_bytes() const { return kBlock * v_stride() * element_bytes(); }
  constexpr int64_t scale_bytes() const {
    return dtype == KvDType::kI8 ? kBlock * static_cast<int64_t>(sizeof(float)) : 0;
  }
  constexpr int64_t k_head_bytes() const { return k_code_bytes() + scale_bytes(); }
  constexpr int64_t v_head_bytes() const { return v_code_bytes() + scale_bytes(); }
  constexpr int64_t k_block_bytes() const { return kv_heads * k_head_bytes(); }
  constexpr int64_t v_block_bytes() const { return kv_heads * v_head_bytes(); }

  std::byte* k_head(int64_t block, int64_t head) const {
    return static_cast<std::byte*>(k) + block * k_block_bytes() + head * k_head_bytes();
  }
  std::byte* v_head(int64_t block, int64_t head) const {
    return static_cast<std::byte*>(v) + block * v_block_bytes() + head * v_head_bytes();
  }
  // [16], of int8.
  float* k_scales(int64_t block, int64_t head) const {
    return reinterpret_cast<float*>(k_head(block, head) + k_code_bytes());
  }
  float* v_scales(int64_t block, int64_t head) const {
    return reinterpret_cast<float*>(v_head(block, head) + v_code_bytes());
  }

  // Index of an element in its head's elements of a block.
  constexpr int64_t k_index(int64_t dim, int64_t position) const {
    return (dim / pack() * kBlock + position) * pack() + dim % pack();
  }
  constexpr int64_t v_index(int64_t position, int64_t dim) const {
    return (position / pack() * v_stride() + dim) * pack() + position % pack();
  }
};

// Integers of int8 attention: codes of K and V, of a query, and of the weights
// (probability times V's scale) of one partition. Sums of 512 products of the first
// two and of 256 of the first and last fit 32 bits.
inline constexpr float kKvCodeMax = 127.0f;
inline constexpr float kQueryCodeMax = 32512.0f;  // 127 * 256: high and low bytes are signed
inline constexpr float kWeightCodeMax = 32767.0f;

}  // namespace tandem::kernels
