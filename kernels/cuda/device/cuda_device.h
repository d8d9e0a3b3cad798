// What kernels are written with, for nvcc. Kernel sources say #include <cuda_device.h>
// and get this file on a card, or tests/emulation/include/cuda_device.h where a host
// compiler builds the same sources against the emulation; both offer the same names.
//
// Rules for kernel sources: shared memory by these macros alone; launches by Launch
// alone; PTX only in functions of this file, called by whole warps; block sizes are
// multiples of 32; no block waits for another.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

// type name[count], one for a block.
#define TANDEM_SHARED(type, name, count) __shared__ type name[count]
// type* name: the block's dynamic shared memory, 16-byte aligned.
#define TANDEM_DYNAMIC_SHARED(type, name)                                 \
  extern __shared__ __align__(16) unsigned char tandem_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(tandem_dynamic_shared)

namespace tandem::kernels::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
};

// An error stays with the runtime until cudaGetLastError: looked at once a step.
template <typename... Parameters, typename... Arguments>
void Launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

// 16 bytes that are read once: they need not stay in the cache.
__device__ inline uint4 LoadOnce(const void* address) {
  return __ldcs(static_cast<const uint4*>(address));
}
__device__ inline float Rsqrt(float x) { return 1.0f / sqrtf(x); }

}  // namespace tandem::kernels::cuda
