// Arithmetic of kernels on the GPU: conversions of elements and reductions.
#pragma once

#include <cuda_device.h>

#include "kernels/base/dtype.h"
#include "kernels/base/math.h"

namespace tandem::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

// bfloat16 is the upper half of fp32: no type of its own is needed, on any GPU.
__device__ inline float Bf16Low(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ inline float Bf16High(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }
__device__ inline float Bf16Value(uint16_t bits) {
  return __uint_as_float(static_cast<unsigned>(bits) << 16);
}

__device__ inline float F16Value(uint16_t bits) { return __half2float(__half(__half_raw{bits})); }
__device__ inline uint16_t F16Bits(float value) {
  return static_cast<__half_raw>(__float2half_rn(value)).x;
}

template <DType kType>
__device__ inline float Element(const void* values, int64_t index) {
  if constexpr (kType == DType::kF32) {
    return static_cast<const float*>(values)[index];
  } else if constexpr (kType == DType::kF16) {
    return F16Value(static_cast<const uint16_t*>(values)[index]);
  } else {
    return Bf16Value(static_cast<const uint16_t*>(values)[index]);
  }
}

// Every lane gets the sum of its group of kLanes lanes, added pairwise: the same bits in
// all of them.
template <int kLanes = 32>
__device__ inline float SumLanes(float value) {
  for (int lanes = kLanes / 2; lanes > 0; lanes /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, lanes);
  }
  return value;
}

__device__ inline float MaxLanes(float value) {
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, lanes));
  }
  return value;
}

}  // namespace tandem::kernels::cuda
