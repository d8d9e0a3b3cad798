// The order in which kernels add up the squares of a row for its norm: the same bits whichever
// kernel it is.
#pragma once

#include <cuda_device.h>

#include "kernels/cuda/device_math.h"

namespace tandem::kernels::cuda {

// Of a block; thread i adds up columns i, i + kNormThreads, ..., four neighbours at a time where
// the row is a multiple of four.
constexpr int kNormThreads = 256;
constexpr int kNormWarps = kNormThreads / 32;

// `squares` of the calling thread with those of its warp, to sums [kNormWarps] of shared memory.
__device__ inline void KeepWarpSum(float squares, float* sums) {
  squares = SumLanes(squares);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = squares;
}

// After a barrier, what a row of `hidden` values is multiplied with.
__device__ inline float InverseRms(const float* sums, int64_t hidden, float epsilon) {
  float sum = 0;
  for (int w = 0; w < kNormWarps; ++w) sum += sums[w];
  return Rsqrt(sum / static_cast<float>(hidden) + epsilon);
}

}  // namespace tandem::kernels::cuda
