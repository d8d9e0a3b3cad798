// Shape and number format of one rank's shard of a linear layer.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/base/dtype.h"
#include "kernels/base/sum_tree.h"

namespace tandem::kernels {

// A code is an integer, or a float of 8 bits: 4 of exponent, 3 of mantissa, no infinity (E4M3).
enum class CodeType : uint8_t { kInteger, kFloat8 };

// Codes with one scale for each group of group_size columns of a row:
// value = scale * (code - zero). Groups are counted from column 0 of the whole
// layer. A cut between ranks may divide a group; both ranks then keep its scale.
struct QuantFormat {
  int bits = 8;                     // 8: codes -128..127, or floats; 4: codes 0..15
  int64_t group_size = 32;          // 32, 64 or 128 columns; the last group may have fewer
  bool zero_points = false;         // of integers; without, zero is 0 (8 bits) or 8 (4 bits)
  DType scale_dtype = DType::kF16;  // type of the scales in the packed weight
  CodeType code_type = CodeType::kInteger;

  bool operator==(const QuantFormat&) const = default;
};

// One rank's shard of a linear layer y = W x.
// Column-parallel: the rank owns some of the rows and all leaves.
// Row-parallel: the rank owns all rows and some of the leaves.
struct LinearSpec {
  DType dtype = DType::kBF16;        // of the elements, unless they are quantized
  std::optional<QuantFormat> quant;  // set: the elements are quantized
  int64_t rows = 0;                  // outputs of this shard
  int64_t global_columns = 0;        // K of the whole layer
  int64_t leaf_size = 128;           // columns of a leaf
  LeafRange leaves;                  // of this shard; the local columns are theirs

  int64_t column_begin() const { return leaves.begin * leaf_size; }
  int64_t columns() const {
    if (leaves.size() == 0) return 0;
    const int64_t end = leaves.end * leaf_size;
    return (end < global_columns ? end : global_columns) - column_begin();
  }
  // Groups that the local columns touch, [begin, end), counted in the whole layer.
  int64_t group_begin() const { return column_begin() / quant->group_size; }
  int64_t group_end() const {
    return columns() == 0
               ? group_begin()
               : (column_begin() + columns() + quant->group_size - 1) / quant->group_size;
  }
};

}  // namespace tandem::kernels
