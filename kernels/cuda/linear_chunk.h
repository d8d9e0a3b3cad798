// Chunks of 16 bytes of a weight as fp32 values.
#pragma once

#include <cuda_device.h>

#include "kernels/cuda/device_math.h"
#include "kernels/cuda/linear.h"

namespace tandem::kernels::cuda {

// A part is what is widened at a time. kOffset: widened codes are larger by this.
template <Format kFormat>
struct Chunk;

template <>
struct Chunk<Format::kF32> {
  static constexpr int kSize = 4, kPart = 4, kOffset = 0;
  static constexpr bool kQuantized = false;
  __device__ static void Widen(const uint4& raw, int, float* out) {
    const unsigned words[] = {raw.x, raw.y, raw.z, raw.w};
    for (int i = 0; i < 4; ++i) out[i] = __uint_as_float(words[i]);
  }
};

template <>
struct Chunk<Format::kF16> {
  static constexpr int kSize = 8, kPart = 8, kOffset = 0;
  static constexpr bool kQuantized = false;
  __device__ static void Widen(const uint4& raw, int, float* out) {
    const unsigned words[] = {raw.x, raw.y, raw.z, raw.w};
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = F16Value(static_cast<uint16_t>(words[i]));
      out[2 * i + 1] = F16Value(static_cast<uint16_t>(words[i] >> 16));
    }
  }
};

template <>
struct Chunk<Format::kBF16> {
  static constexpr int kSize = 8, kPart = 8, kOffset = 0;
  static constexpr bool kQuantized = false;
  __device__ static void Widen(const uint4& raw, int, float* out) {
    const unsigned words[] = {raw.x, raw.y, raw.z, raw.w};
    for (int i = 0; i < 4; ++i) {
      out[2 * i] = Bf16Low(words[i]);
      out[2 * i + 1] = Bf16High(words[i]);
    }
  }
};

template <>
struct Chunk<Format::kI8> {
  static constexpr int kSize = 16, kPart = 8, kOffset = 0;
  static constexpr bool kQuantized = true;
  __device__ static void Widen(const uint4& raw, int part, float* out) {
    WidenWord(part == 0 ? raw.x : raw.z, out);
    WidenWord(part == 0 ? raw.y : raw.w, out + 4);
  }
  // A byte in the mantissa of 2^23 is 2^23 + byte: exact, and cheaper than a conversion.
  __device__ static void WidenWord(unsigned word, float* out) {
    for (int i = 0; i < 4; ++i) {
      const unsigned bits = __byte_perm(word, 0x4b000000u, 0x7540u + i);
      out[i] = __uint_as_float(bits) - 8388736.0f;
    }
  }
};

template <>
struct Chunk<Format::kF8> {
  static constexpr int kSize = 16, kPart = 8, kOffset = 0;
  static constexpr bool kQuantized = true;
  __device__ static void Widen(const uint4& raw, int part, float* out) {
    WidenWord(part == 0 ? raw.x : raw.z, out);
    WidenWord(part == 0 ? raw.y : raw.w, out + 4);
  }
  // As E4m3ToFloat, but not for NaN.
  __device__ static void WidenWord(unsigned word, float* out) {
    for (int i = 0; i < 4; ++i) {
      const unsigned byte = word >> (8 * i);
      const unsigned bits = (byte & 0x80u) << 24 | (byte & 0x7fu) << 20;
      out[i] = __uint_as_float(bits) * 1.329227995784916e36f;  // 2^120
    }
  }
};

template <>
struct Chunk<Format::kI4> {
  static constexpr int kSize = 32, kPart = 8, kOffset = 16;
  static constexpr bool kQuantized = true;
  // Four bits at the top of the mantissa of 16 are 16 + code.
  __device__ static void Widen(const uint4& raw, int part, float* out) {
    const unsigned word = part == 0 ? raw.x : part == 1 ? raw.y : part == 2 ? raw.z : raw.w;
    for (int i = 0; i < 8; ++i) {
      const unsigned code = i < 5 ? word << (19 - 4 * i) : word >> (4 * i - 19);
      out[i] = __uint_as_float((code & 0x00780000u) | 0x41800000u);
    }
  }
};

// Columns of a chunk.
struct ChunkPlace {
  int column = 0;  // local, of its first element
  int valid = 0;   // elements that are not padding
  int group = 0;
};

__device__ inline ChunkPlace PlaceOf(const WeightLayout& layout, int chunk, int chunk_size) {
  int column = chunk * chunk_size;
  int valid = layout.columns - column;
  if (layout.span_chunks * chunk_size != layout.span) {  // spans end with padding
    const int span = chunk / layout.span_chunks;
    const int inside = (chunk - span * layout.span_chunks) * chunk_size;
    column = span * layout.span + inside;
    valid = layout.columns - column;
    if (valid > layout.span - inside) valid = layout.span - inside;
  }
  if (valid > chunk_size) valid = chunk_size;
  return {column, valid, (column + layout.group_offset) >> layout.group_shift};
}

__device__ inline float ScaleAt(const WeightLayout& layout, const void* scales, int64_t index) {
  switch (layout.scale_dtype) {
    case DType::kF32:
      return Element<DType::kF32>(scales, index);
    case DType::kF16:
      return Element<DType::kF16>(scales, index);
    default:
      return Element<DType::kBF16>(scales, index);
  }
}

// The code that means zero.
__device__ inline float ZeroAt(const WeightLayout& layout, const uint8_t* zeros, int64_t index) {
  if (layout.zero_points) return static_cast<float>(zeros[index]);
  return layout.format == Format::kI4 ? 8.0f : 0.0f;
}

}  // namespace tandem::kernels::cuda
