// What collectives between GPUs hold, for them and for plans made where there is no GPU.
#pragma once

#include <cstdint>

namespace tandem::parallel {

// Partial sums of a rank in one call of the one-shot all-reduce; longer messages are bound by
// bandwidth, and others' to do.
inline constexpr int64_t kPeerFloats = 128 << 10;
// Of each rank in NCCL's window; longer messages go in pieces.
inline constexpr int64_t kNcclWindowFloats = 1 << 20;
// What NCCL takes for itself, which it does not tell: an allowance.
inline constexpr uint64_t kNcclOwnBytes = 256 << 20;

struct DeviceBytes {
  uint64_t gpu = 0;
  uint64_t pinned = 0;  // of the host
};

// Of a rank of `ranks`, with the ways that may all be tried; max_floats and max_gathered as
// DeviceCommunicatorOptions have them.
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
