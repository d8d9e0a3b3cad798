// The SIMD kernels of the CPU backend, dispatched at run time to the best
// instruction set that the process may use. Each works on one thread's share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace tandem::kernels::cpu {

void AddRmsNormRow(const float* delta, const float* delta_bias, float* residual,
                   const float* weight, float epsilon, int64_t hidden, float* out);
void SiluMulRow(const float* gate, const float* up, int64_t columns, float* out);
void WidenRow(const void* row, DType dtype, int64_t columns, float* out);

// Token `token` of args.
void RopeAndCacheToken(const RopeAndCacheArgs& args, int64_t token);

// Name of the instruction set that calls are dispatched to ("AVX2", "AVX3", ...).
const char* IsaName();

}  // namespace tandem::kernels::cpu
