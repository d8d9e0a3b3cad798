// The names of kernels/cuda/device/cuda_peer.h on the host: ranks are threads, and memory of
// another GPU is that of another thread.
#pragma once

#include <cuda_device.h>
#include <sched.h>

#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>

namespace tandem::kernels::cuda {

inline void StoreFlagged(uint4* to, float first, float second, unsigned flag) {
  auto* const halves = reinterpret_cast<uint64_t*>(to);
  const uint64_t high = static_cast<uint64_t>(flag) << 32;
  std::atomic_ref(halves[0]).store(high | std::bit_cast<uint32_t>(first));
  std::atomic_ref(halves[1]).store(high | std::bit_cast<uint32_t>(second));
}
inline uint4 LoadFlagged(const uint4* from) {
  auto* const halves = reinterpret_cast<uint64_t*>(const_cast<uint4*>(from));
  const uint64_t first = std::atomic_ref(halves[0]).load();
  const uint64_t second = std::atomic_ref(halves[1]).load();
  return {static_cast<unsigned>(first), static_cast<unsigned>(first >> 32),
          static_cast<unsigned>(second), static_cast<unsigned>(second >> 32)};
}

inline unsigned LoadWord(const unsigned* word) {
  return std::atomic_ref(*const_cast<unsigned*>(word)).load();
}
inline void StoreWord(unsigned* word, unsigned value) { std::atomic_ref(*word).store(value); }
inline unsigned TakeTicket(unsigned* counter) { return std::atomic_ref(*counter).fetch_add(1); }

inline uint64_t Nanoseconds() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}
inline void PauseSpin() { sched_yield(); }

}  // namespace tandem::kernels::cuda
