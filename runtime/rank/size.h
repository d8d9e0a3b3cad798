// The seventh step of a rank: the memory plan, the size of the KV cache, and whether both fit.
// Measured before any rank has loaded: weights of the first would count against the others.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/shard_plan.h"
#include "parallel/shm_host.h"
#include "runtime/loader/model_config.h"
#include "runtime/model/decoder.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/rank/free_memory.h"
#include "runtime/rank/open_model.h"
#include "runtime/rank/options.h"
#include "runtime/rank/place.h"

namespace tandem::rank {

// The largest step, and what the KV cache is for.
struct StepSizes {
  int64_t tokens = 0;
  int64_t rows = 0;  // of logits
  int64_t sequences = 0;
  int64_t context = 0;          // tokens of one sequence
  int64_t sequence_blocks = 0;  // KV blocks of one sequence of full length
  int64_t useful_blocks = 0;    // of all sequences of full length: more would never be used
};

// From the options and the model alone.
StepSizes StepSizesOf(const RankOptions& options, const loader::ModelConfig& config);

// KV blocks of block_bytes each: as many as `memory` holds, at most sizes.useful_blocks.
int64_t KvBlocksIn(uint64_t memory, uint64_t block_bytes, const StepSizes& sizes);

// Bytes for the KV cache where no option says: a fixed part of what the plan leaves of `free`.
uint64_t KvMemory(const plan::MemoryPlan& plan, uint64_t free);

struct RankSize {
  plan::MemoryPlan plan;
  model::DecoderOptions decoder;  // num_blocks are the KV blocks, the same on all ranks
  int64_t max_model_len = 0;      // tokens of one sequence that fit
};

// The results of the steps so far.
struct StartResults {
  const RankOptions& options;
  const Placement& placed;
  OpenedModel& opened;
  const GpuMap& gpus;
  const parallel::ShardPlan& shards;
  const parallel::ShmHost* shared_memory = nullptr;  // of the ranks of this host; null: none
};

// Collective; all ranks get the same error. RESOURCE_EXHAUSTED names what does not fit and what to
// change.
absl::StatusOr<RankSize> SizeRank(parallel::ControlGroup& group, const StartResults& start);

}  // namespace tandem::rank
