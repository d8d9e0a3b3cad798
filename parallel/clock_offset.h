// How far the ranks' clocks are apart, for traces of several hosts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"

namespace tandem::parallel {

// Own clock before a rank sent and after it had heard from all, in nanoseconds.
struct ClockSample {
  int64_t sent_ns = 0;
  int64_t received_ns = 0;
};

// A clock less rank 0's, in nanoseconds, from samples of the same exchanges. Every exchange bounds
// it: nothing is heard before it was sent. The middle of what all of them allow; 0 where that is
// allowed, as it is on one host, whose processes share a clock.
int64_t EstimateClockOffset(std::span<const ClockSample> rank_0, std::span<const ClockSample> mine);

// Every rank's steady clock less rank 0's. Collective; some milliseconds.
absl::StatusOr<std::vector<int64_t>> MeasureClockOffsets(ControlGroup& group);

}  // namespace tandem::parallel
