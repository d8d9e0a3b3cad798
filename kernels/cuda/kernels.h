// Operations on a GPU as functions of the host: each launches on `stream` and returns. Pointers are
// the GPU's, shapes as in kernels/operations.h. Dimensions of zero launch nothing.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/base/dtype.h"

namespace tandem::kernels::cuda {

// Squares are summed by 256 threads, thread i taking columns i, i + 256, ... (four
// neighbours at a time where hidden is a multiple of four), then pairwise.
void AddRmsNorm(cudaStream_t stream, const float* delta, const float* delta_bias, float* residual,
                const float* weight, float epsilon, int64_t tokens, int64_t hidden, float* out);

void RopeAngles(cudaStream_t stream, const int32_t* positions, int64_t tokens,
                const float* inverse_frequencies, int64_t half, float attention_factor, float* cos,
                float* sin);

void SiluMul(cudaStream_t stream, const float* gate_up, int64_t tokens, int64_t columns,
             float* out);

void GatherRows(cudaStream_t stream, const float* x, const int32_t* indices, int64_t rows,
                int64_t columns, float* out);

// y[t, i] += bias[i].
void AddBias(cudaStream_t stream, const float* bias, int64_t tokens, int64_t columns, float* y);

// out[i] = values[i] widened to fp32.
void Widen(cudaStream_t stream, const void* values, DType dtype, int64_t count, float* out);

// out[i] = values[i] rounded to a 16-bit type; values beyond FP16's range become its largest.
void Narrow(cudaStream_t stream, const float* values, DType dtype, int64_t count, void* out);

}  // namespace tandem::kernels::cuda
