// Products of some tokens on the GPU's matrix units. The weight is read once for every kTileTokens
// tokens, as it is stored, and widened to 16 bits in registers.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cuda/linear.h"

namespace tandem::kernels::cuda {

inline constexpr int kTileTokens = 64;

// Whether LinearTiles takes such a weight: 16-bit elements, INT8 without zero points, INT4, FP8;
// rows laid out plainly, of a multiple of 8 columns.
bool Tileable(const WeightLayout& layout);

// How many splits the columns are divided into, so that blocks fill the GPU. With more than one,
// each takes tokens * rows floats of the scratch.
int TileSplits(const WeightLayout& layout, int64_t tokens, int multiprocessors,
               size_t scratch_bytes);

// y [tokens, rows] = W x + bias, bias [rows] or null. x [tokens, columns] of `dtype`, 16-byte
// aligned: the elements' type where they are not quantized, else BF16 (compute capability 8.0)
// or FP16. Codes are exact in both types; their sums over a group are fp32 before the scale.
// partials [splits, tokens, rows], null with one split.
void LinearTiles(cudaStream_t stream, const WeightLayout& layout, const LinearPointers& weight,
                 DType dtype, const void* x, int64_t tokens, const float* bias, int splits,
                 float* partials, float* y);

}  // namespace tandem::kernels::cuda
