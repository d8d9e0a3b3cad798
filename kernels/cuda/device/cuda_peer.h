// Words that GPUs pass to each other and to the host, for nvcc; the emulation has its own
// (tests/emulation/include/cuda_peer.h). As in cuda_device.h, but single threads may call.
#pragma once

#include <cuda_device.h>

namespace tandem::kernels::cuda {

// Two values into another GPU's memory, each with a flag beside it: 8 bytes arrive together,
// so that no fence is needed.
__device__ inline void StoreFlagged(uint4* to, float first, float second, unsigned flag) {
  asm volatile("st.volatile.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :
               : "l"(to), "r"(__float_as_uint(first)), "r"(flag), "r"(__float_as_uint(second)),
                 "r"(flag)
               : "memory");
}
// As {first, flag, second, flag}.
__device__ inline uint4 LoadFlagged(const uint4* from) {
  uint4 words;
  asm volatile("ld.volatile.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(words.x), "=r"(words.y), "=r"(words.z), "=r"(words.w)
               : "l"(from)
               : "memory");
  return words;
}

// A word that others may change meanwhile.
__device__ inline unsigned LoadWord(const unsigned* word) {
  return *static_cast<const volatile unsigned*>(word);
}
// The word is this GPU's or pinned memory of the host.
__device__ inline void StoreWord(unsigned* word, unsigned value) {
  *static_cast<volatile unsigned*>(word) = value;
  __threadfence_system();
}
// The counter's value before it is raised by one.
__device__ inline unsigned TakeTicket(unsigned* counter) { return atomicAdd(counter, 1u); }

__device__ inline uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}
// Waits a little between two reads of another GPU's word.
__device__ inline void PauseSpin() {}

}  // namespace tandem::kernels::cuda
