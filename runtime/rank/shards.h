// The fifth step of a rank: how the model is divided among the ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/shard_plan.h"
#include "runtime/loader/model_config.h"

namespace tandem::rank {

// The weights of the ranks that --shards names: equal ones for "even", the numbers of a list such
// as "3,3,2". "auto" gives equal ones too; DivideModel replaces them. INVALID_ARGUMENT for anything
// else.
absl::StatusOr<std::vector<int64_t>> ShardWeights(const std::string& shards, int tp);

// Collective. "auto" divides in proportion to the memory that each rank may take, `free_memory`
// bytes on this one. All ranks have the same `shards`, and get the same error.
absl::StatusOr<parallel::ShardPlan> DivideModel(parallel::ControlGroup& group,
                                                const std::string& shards,
                                                const loader::ModelConfig& config,
                                                uint64_t free_memory);

}  // namespace tandem::rank
