#include "runtime/rank/shards.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/model/model_tensors.h"
#include "runtime/plan/memory_plan.h"

namespace tandem::rank {
namespace {

void LogWeights(const std::vector<int64_t>& weights) {
  const auto [least, most] = std::minmax_element(weights.begin(), weights.end());
  spdlog::info("shards in proportion to free memory: {}",
               *most == *least ? "all equal" : absl::StrJoin(weights, " : ") + " MiB");
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> ShardWeights(const std::string& shards, int tp) {
  std::vector<int64_t> weights(tp, 1);
  if (shards == "even" || shards == "auto") return weights;
  const std::vector<std::string> parts = absl::StrSplit(shards, ',');
  bool good = parts.size() == weights.size();
  for (size_t r = 0; good && r < parts.size(); ++r) {
    good = absl::SimpleAtoi(parts[r], &weights[r]) && weights[r] >= 1 && weights[r] <= 1 << 30;
  }
  if (good) return weights;
  return absl::InvalidArgumentError(absl::StrCat("--shards: found '", shards,
                                                 "', expected even, auto or ", tp,
                                                 " whole numbers, one for each rank: 3,3,2"));
}

absl::StatusOr<parallel::ShardPlan> DivideModel(parallel::ControlGroup& group,
                                                const std::string& shards,
                                                const loader::ModelConfig& config,
                                                uint64_t free_memory) {
  TANDEM_ASSIGN_OR_RETURN(std::vector<int64_t> weights, ShardWeights(shards, group.size()));
  if (shards == "auto") {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<uint64_t> memory,
                            parallel::AllGather(group, free_memory));
    weights = plan::ShardWeightsByMemory(memory);
    if (group.rank() == 0) LogWeights(weights);
  }
  return parallel::ShardPlan::Make(model::ShapeOf(config), weights);
}

}  // namespace tandem::rank
