// Codes and scales for rows of a weight: what quantizing at load and
// `tandem quantize` have in common.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace tandem::loader {

// To be raised whenever QuantizeRows gives other codes or scales than before: files of weights that
// were quantized by another version are then made again.
inline constexpr int kQuantizerVersion = 1;

// How the scale (and zero point) of a group is found.
enum class ScaleMethod : uint8_t {
  // From the largest magnitude: max |x| / 127 with 8 bits, max |x| / 7.5 with 4;
  // with zero points (max - min) / 15, zero included in the range. Codes are
  // rounded to nearest. The field's "round to nearest".
  kRtn,
  // The least weighted squared error over a grid of scales around those, each
  // followed by the least-squares scale for its codes. Never worse than kRtn.
  kSearch,
};

// Quantizes rows [n, columns], row-major; column 0 begins a group. The error that
// kSearch makes small is sum_j importance[j] * (x_j - scale * (code_j - zero))^2,
// importance [columns] being finite and not negative, null for ones.
//
// A scale is rounded to format.scale_dtype before codes are chosen, so that what
// out.scales holds is what a stored scale reads back as. Scales may be negative
// with 4 bits and no zero points, whose codes reach one further down than up.
// Zero points are for 4 bits alone. out.zeros is written only with zero points.
//
// Floats of 8 bits have kRtn alone, whatever is asked for: the largest magnitude becomes 448,
// the largest float, and a better scale would gain little where codes are relative.
//
// The same bits for a row whatever n is, and on every processor. InvalidArgument
// that names row and column of a value that is not finite, or is too large for
// the scale's type.
absl::Status QuantizeRows(const float* rows, int64_t n, int64_t columns,
                          const kernels::QuantFormat& format, const float* importance,
                          kernels::QuantizedRows out, ScaleMethod method = ScaleMethod::kSearch);

// A scale as a type keeps it.
float StoredScale(kernels::DType scale_dtype, float scale);

// The code of one value as an integer: nearest to zero + value / scale, ties to even, within
// what the format's codes can be. scale may be 0: then the code for zero.
int8_t QuantizeValue(const kernels::QuantFormat& format, float value, float scale, uint8_t zero);

// Where a format without zero points has its zero.
inline uint8_t SymmetricZero(const kernels::QuantFormat& format) {
  return format.bits == 4 ? 8 : 0;
}

}  // namespace tandem::loader
