// Row-wise operations. Each call works on one row or token.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/operations.h"

namespace tandem::kernels::cpu {

struct RowKernels {
  // See Operations; delta and delta_bias may be null.
  void (*add_rms_norm)(const float* delta, const float* delta_bias, float* residual,
                       const float* weight, float epsilon, size_t hidden, float* out) = nullptr;
  void (*silu_mul)(const float* gate, const float* up, size_t columns, float* out) = nullptr;
  void (*widen)(const void* row, DType dtype, size_t columns, float* out) = nullptr;
  void (*rope_and_cache)(const RopeAndCacheArgs& args, int64_t token) = nullptr;
};

// target: InstructionSet::target.
RowKernels RowKernelsOf(int64_t target);

}  // namespace tandem::kernels::cpu
