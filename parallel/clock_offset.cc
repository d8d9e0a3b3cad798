#include "parallel/clock_offset.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"

namespace tandem::parallel {
namespace {

constexpr int kExchanges = 16;

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

int64_t EstimateClockOffset(std::span<const ClockSample> rank_0,
                            std::span<const ClockSample> mine) {
  TANDEM_CHECK(rank_0.size() == mine.size());
  int64_t lowest = std::numeric_limits<int64_t>::min();
  int64_t highest = std::numeric_limits<int64_t>::max();
  for (size_t i = 0; i < mine.size(); ++i) {
    lowest = std::max(lowest, mine[i].sent_ns - rank_0[i].received_ns);
    highest = std::min(highest, mine[i].received_ns - rank_0[i].sent_ns);
  }
  if (lowest <= 0 && highest >= 0) return 0;
  return lowest + (highest - lowest) / 2;
}

absl::StatusOr<std::vector<int64_t>> MeasureClockOffsets(ControlGroup& group) {
  std::vector<ClockSample> mine(kExchanges);
  for (ClockSample& sample : mine) {
    sample.sent_ns = NowNs();
    TANDEM_RETURN_IF_ERROR(group.AllGatherBytes("clock").status());
    sample.received_ns = NowNs();
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::vector<ClockSample>> all,
                          AllGatherVectors(group, mine));
  std::vector<int64_t> offsets;
  for (const std::vector<ClockSample>& theirs : all) {
    offsets.push_back(EstimateClockOffset(all[0], theirs));
  }
  return offsets;
}

}  // namespace tandem::parallel
