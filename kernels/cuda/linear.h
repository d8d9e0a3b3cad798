// The products of linear layers on the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/base/dtype.h"
#include "kernels/cuda/weight_layout.h"

namespace tandem::kernels::cuda {

// Tokens that one pass over a weight multiplies.
inline constexpr int kPassTokens = 8;

struct LinearPointers {
  const void* weight = nullptr;    // [rows, chunks, 16 bytes], 16-byte aligned
  const void* scales = nullptr;    // [rows, groups] of scale_dtype
  const uint8_t* zeros = nullptr;  // [rows, groups] or null
  // [leaves], 2 * merges + emit of each leaf's LeafStep; null: one sum of all columns,
  // in an order of its own.
  const int32_t* tree = nullptr;
};

// Products of up to kPassTokens tokens: y[subtree, t, rows] of tokens [begin, begin +
// count) of `tokens`; x [tokens, columns] fp32, bias [rows] or null.
void LinearPass(cudaStream_t stream, const WeightLayout& layout, const LinearPointers& weight,
                const float* x, int64_t tokens, int64_t begin, int64_t count, const float* bias,
                float* y);

// Rows [row_begin, row_end) of a quantized weight as 16-bit elements, [rows, columns].
void Dequantize(cudaStream_t stream, const WeightLayout& layout, const LinearPointers& weight,
                int64_t row_begin, int64_t row_end, DType dtype, void* out);

}  // namespace tandem::kernels::cuda
