// The functions and macros that kernels use, for nvcc. Kernel sources say #include <cuda_device.h>
// and get this file on a GPU, or tests/emulation/include/cuda_device.h where a host compiler builds
// the same sources against the emulation. Both define the same names.
//
// Rules for kernel sources: use these macros alone for shared memory, and Launch alone to launch;
// kernels begin with AwaitPrevious; PTX is only in functions of this folder, called by whole warps;
// block sizes are multiples of 32; no block waits for another.
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
#define TANDEM_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char tandem_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(tandem_dynamic_shared)

namespace tandem::kernels::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
};

// Whether the kernel waits in AwaitPrevious on the thread's GPU: it was compiled for compute
// capability 9.0 or later. A build may have compiled it for less than the GPU's own.
template <typename Kernel>
bool WaitsForPrevious(Kernel* kernel) {
  thread_local int known = -1;  // asking takes longer than a launch should
  thread_local bool waits = false;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (device != known) {
    cudaFuncAttributes attributes;
    waits =
        cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
    known = device;
  }
  return waits;
}

// Launches a kernel that may start while the previous one in the stream still runs, if the GPU can
// do so and the previous kernel has called StartNext. All threads call AwaitPrevious before they
// read or write memory that other kernels write or read, and before they end: the next kernel
// relies on all kernels before this one being done. An error stays with the runtime until
// cudaGetLastError, which is called once a step.
template <typename... Parameters, typename... Arguments>
void Launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = &overlap;
  config.numAttrs = WaitsForPrevious(kernel) ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...);
}

// Waits until the previous kernel is done and its writes are visible.
__device__ inline void AwaitPrevious() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Once all blocks have called it or ended, the next kernel may start, if the GPU can do so. That
// kernel still waits for this one's end (AwaitPrevious).
__device__ inline void StartNext() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// 16 bytes that are read once: they need not stay in the cache.
__device__ inline uint4 LoadOnce(const void* address) {
  return __ldcs(static_cast<const uint4*>(address));
}
// Prefetches the address into the second-level cache.
__device__ inline void PrefetchLine(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}
__device__ inline float Rsqrt(float x) { return 1.0f / sqrtf(x); }

}  // namespace tandem::kernels::cuda
