// How a linear layer's weight lies on the GPU. Compiles without CUDA: plans ask for its size
// anywhere.
//
// A row is a sequence of chunks of 16 bytes: 4 fp32, 8 16-bit elements, 16 INT8 codes
// (stored plus 128), 16 floats of 8 bits (E4M3) or 32 INT4 codes (the lower first). Columns are cut
// into spans, which lie in one leaf and one quantization group: gcd(group_size, leaf_size) columns,
// or a leaf where elements are not quantized. Each span starts a new chunk, so a chunk has one
// scale and one leaf; where spans are whole chunks, as they are in models' usual shapes, the layout
// is the plain row-major one.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"

namespace tandem::kernels {
struct LinearSpec;
}

namespace tandem::kernels::cuda {

enum class Format : uint8_t { kF32, kF16, kBF16, kI8, kI4, kF8 };

struct WeightLayout {
  Format format = Format::kBF16;
  DType scale_dtype = DType::kF16;
  bool zero_points = false;
  int32_t rows = 0;
  int32_t columns = 0;      // local
  int32_t span = 0;         // columns of a span; the last may be shorter
  int32_t span_chunks = 0;  // chunks of a span
  int32_t chunks = 0;       // of a row
  int32_t leaf_spans = 0;   // spans of a leaf; the last leaf may have fewer
  int32_t leaves = 0;       // local
  int32_t group_shift = 0;  // 2^group_shift columns of a group; and, of the local columns:
  int32_t groups = 0;
  int32_t group_offset = 0;  // columns of the first group that lie before them

  // Of `spec`, with BF16 elements stored as FP16 where the GPU has no BF16.
  static WeightLayout Of(const LinearSpec& spec, bool has_bf16);

  int32_t chunk() const {
    switch (format) {
      case Format::kF32:
        return 4;
      case Format::kI8:
      case Format::kF8:
        return 16;
      case Format::kI4:
        return 32;
      default:
        return 8;
    }
  }
  bool quantized() const {
    return format == Format::kI8 || format == Format::kI4 || format == Format::kF8;
  }
  int64_t row_bytes() const { return int64_t{16} * chunks; }
  int64_t scale_bytes() const {
    return quantized() ? rows * int64_t{groups} * static_cast<int64_t>(DTypeSize(scale_dtype)) : 0;
  }
  int64_t zero_bytes() const { return zero_points ? rows * int64_t{groups} : 0; }
  // Elements lie as in a plain matrix, rows row_bytes() apart.
  bool plain() const { return span_chunks * chunk() == span || span >= columns; }
};

// Where the parts of a weight lie in its buffer.
struct WeightPlaces {
  size_t scales = 0;
  size_t zeros = 0;
  size_t tree = 0;
  size_t bytes = 0;

  static WeightPlaces Of(const WeightLayout& layout, bool with_tree);
};

}  // namespace tandem::kernels::cuda
