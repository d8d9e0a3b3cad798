#include "runtime/plan/memory_plan.h"

#include <algorithm>

namespace tandem::plan {
namespace {

// Ranks whose memory differs by a smaller factor get shards of equal size.
constexpr double kSameMemory = 1.1;

}  // namespace

std::vector<int64_t> ShardWeightsByMemory(std::span<const uint64_t> memory) {
  std::vector<int64_t> weights;
  for (const uint64_t bytes : memory) {
    weights.push_back(std::max<int64_t>(1, static_cast<int64_t>(bytes >> 20)));
  }
  const auto [least, most] = std::minmax_element(weights.begin(), weights.end());
  if (static_cast<double>(*most) <= kSameMemory * static_cast<double>(*least)) {
    std::fill(weights.begin(), weights.end(), 1);
  }
  return weights;
}

int RanksOnGpu(std::span<const std::string> gpus, int rank) {
  if (gpus[rank].empty()) return 1;
  return static_cast<int>(std::count(gpus.begin(), gpus.end(), gpus[rank]));
}

}  // namespace tandem::plan
