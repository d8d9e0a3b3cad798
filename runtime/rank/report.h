// What ranks report about their memory: once loaded, while serving, and at the end.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "runtime/rank/free_memory.h"
#include "runtime/rank/load.h"
#include "runtime/rank/place.h"
#include "runtime/rank/size.h"
#include "runtime/server/served_model.h"

namespace tandem::rank {

// What a rank reports at the end; bytes.
struct RankReport {
  uint64_t bytes_read = 0;     // of weights, from the checkpoint
  uint64_t planned_bytes = 0;  // of the host, MemoryPlan's
  // Anonymous and shared memory; a rank keeps what it takes, so the last sample shows the most.
  // With streamed weights, the file pages that they brought too.
  uint64_t peak_memory = 0;
  uint64_t planned_gpu = 0;  // of the rank's GPU, MemoryPlan's; 0: none
  uint64_t gpu_memory = 0;   // taken of it by all ranks that use it; 0: none
};

// Collective, once all ranks have loaded. Logs the GPU's memory against the plans.
absl::StatusOr<std::vector<server::RankInfo>> GatherRankInfos(parallel::ControlGroup& group,
                                                              const StartResults& start,
                                                              const plan::MemoryPlan& plan,
                                                              const LoadedModel& loaded);

// `loaded` with the memory that processes of rank 0's host use now. Rank 0, any thread.
std::vector<server::RankInfo> UpdateRankInfos(std::vector<server::RankInfo> loaded,
                                              const std::vector<RankPlace>& places);

}  // namespace tandem::rank
