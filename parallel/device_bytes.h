// The memory that collectives between GPUs take; memory plans use it on machines without a GPU too.
#pragma once

#include <cstdint>

namespace tandem::parallel {

// Floats of a rank's partial sums in one call of the peer all-reduce, at most. Longer messages are
// bound by bandwidth; the other ways serve them.
inline constexpr int64_t kPeerFloats = 128 << 10;
// Floats of each rank in NCCL's window; longer messages are split.
inline constexpr int64_t kNcclWindowFloats = 1 << 20;
// An allowance for NCCL's own memory, which it does not report.
inline constexpr uint64_t kNcclOwnBytes = 256 << 20;

struct DeviceBytes {
  uint64_t gpu = 0;
  uint64_t pinned = 0;  // of the host
};

// For one of `ranks` ranks, with all ways that may be tried. max_floats and max_gathered are as in
// DeviceCommunicatorOptions.
constexpr DeviceBytes DeviceCommunicatorBytes(int ranks, int64_t max_floats, int64_t max_gathered) {
  DeviceBytes bytes = {.pinned = static_cast<uint64_t>(max_gathered) * sizeof(float)};
  if (ranks == 1) return bytes;
  const auto of_all = static_cast<uint64_t>(ranks);
  // Each value with a flag, in two halves.
  bytes.gpu += of_all * 2 * kPeerFloats * 2 * sizeof(float);
  bytes.gpu += of_all * kNcclWindowFloats * sizeof(float) + kNcclOwnBytes;
  bytes.pinned += 2 * static_cast<uint64_t>(max_floats) * sizeof(float);  // the staged way
  return bytes;
}

}  // namespace tandem::parallel
