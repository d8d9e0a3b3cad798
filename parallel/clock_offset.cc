#include "parallel/clock_offset.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

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

absl::StatusOr<std::vector<int64_t>> MeasureClockOffsets(Communicator& communicator) {
  std::vector<ClockSample> mine(kExchanges);
  for (ClockSample& sample : mine) {
    sample.sent_ns = NowNs();
    TANDEM_RETURN_IF_ERROR(communicator.AllGatherBytes("clock").status());
    sample.received_ns = NowNs();
  }
  const size_t bytes = mine.size() * sizeof(ClockSample);
  TANDEM_ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      communicator.AllGatherBytes(std::string(reinterpret_cast<const char*>(mine.data()), bytes)));
  std::vector<ClockSample> rank_0(kExchanges);
  std::memcpy(rank_0.data(), all[0].data(), bytes);
  std::vector<int64_t> offsets;
  for (const std::string& theirs : all) {
    std::vector<ClockSample> samples(kExchanges);
    std::memcpy(samples.data(), theirs.data(), bytes);
    offsets.push_back(EstimateClockOffset(rank_0, samples));
  }
  return offsets;
}

}  // namespace tandem::parallel
