// How far the ranks' clocks are apart, for traces of several hosts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"

namespace tandem::parallel {

// One exchange on a rank, by its own clock in nanoseconds: before it sent, and after it had
// received from all ranks.
struct ClockSample {
  int64_t sent_ns = 0;
  int64_t received_ns = 0;
};

// This rank's clock minus rank 0's, in nanoseconds, from samples of the same exchanges. Every
// exchange bounds the difference, because a message arrives after it was sent. Returns the middle
// of what all exchanges allow, or 0 where they allow 0: on one host, whose processes share a clock,
// they do.
int64_t EstimateClockOffset(std::span<const ClockSample> rank_0, std::span<const ClockSample> mine);

// Every rank's steady clock minus rank 0's, by rank. Collective; takes some milliseconds.
absl::StatusOr<std::vector<int64_t>> MeasureClockOffsets(ControlGroup& group);

}  // namespace tandem::parallel
