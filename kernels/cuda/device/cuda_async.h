// Copies from the GPU's memory to shared memory that bypass the registers, for nvcc; the
// emulation has its own (tests/emulation/include/cuda_async.h). A thread may read what it
// copied after WaitCopies, the block's other threads after a barrier behind that. Before
// compute capability 8.0 they are plain copies.
#pragma once

#include <cuda_device.h>

namespace tandem::kernels::cuda {

// 16 bytes, both addresses multiples of 16.
__device__ inline void StartCopy(void* shared, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared))), "l"(from)
               : "memory");
#else
  *static_cast<uint4*>(shared) = *static_cast<const uint4*>(from);
#endif
}

// Waits for all copies that this thread has started.
__device__ inline void WaitCopies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" : : : "memory");
#endif
}

}  // namespace tandem::kernels::cuda
