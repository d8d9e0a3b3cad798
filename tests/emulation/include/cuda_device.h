// What kernels are written with, for a host compiler: the names of
// kernels/cuda/device/cuda_device.h, on the emulation.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>

#include "tests/emulation/block.h"
#include "tests/emulation/stream.h"

// As variables of the CUDA language.
#define threadIdx (::tandem::emulation::CurrentThread())
#define blockIdx (::tandem::emulation::CurrentBlock())
#define blockDim (::tandem::emulation::BlockShape())
#define gridDim (::tandem::emulation::GridShape())

#define __launch_bounds__(...)

#define TANDEM_SHARED(type, name, count) \
  static const char name##_identity = 0; \
  type* const name =                     \
      static_cast<type*>(::tandem::emulation::Shared(&name##_identity, sizeof(type) * (count)))
#define TANDEM_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::tandem::emulation::DynamicShared())

inline void __syncthreads() { ::tandem::emulation::SyncThreads(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  ::tandem::emulation::WarpExchange(mask, 0, 0);
}

template <typename T>
T TandemShuffle(unsigned mask, T value, unsigned source) {
  static_assert(sizeof(T) == 4);
  return std::bit_cast<T>(static_cast<uint32_t>(
      ::tandem::emulation::WarpExchange(mask, std::bit_cast<uint32_t>(value), source)));
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return TandemShuffle(mask, value, ::tandem::emulation::CurrentLane() ^ lanes);
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return TandemShuffle(mask, value, static_cast<unsigned>(lane));
}

// In shared memory: the threads of a block take turns.
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  const unsigned before = *address;
  *address += value;
  return before;
}

inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyintf(value)); }
// Byte i of the result is byte (selector >> 4 i & 7) of the eight bytes of y:x.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return out;
}

namespace tandem::kernels::cuda {

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters, typename... Arguments>
void Launch(const LaunchShape& shape, void (*kernel)(Parameters...), Arguments&&... arguments) {
  emulation::Enqueue(shape.stream,
                     [shape, kernel, values = std::tuple<Parameters...>(arguments...)] {
                       emulation::RunGrid(shape.grid, shape.block, shape.shared_bytes,
                                          [&] { std::apply(kernel, values); });
                     });
}

inline void AwaitPrevious() { emulation::MarkAwaited(); }
inline void StartNext() {}

inline uint4 LoadOnce(const void* address) { return *static_cast<const uint4*>(address); }
inline void PrefetchLine(const void*) {}
inline float Rsqrt(float x) { return 1.0f / std::sqrt(x); }

}  // namespace tandem::kernels::cuda
