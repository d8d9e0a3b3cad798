// Bytes that a rank needs beside what the decoder plans itself (model::Decoder::Plan).
#pragma once

#include <cstdint>

#include "kernels/kv_cache_view.h"
#include "parallel/shard_plan.h"
#include "runtime/loader/model_config.h"
#include "runtime/model/decoder.h"
#include "runtime/plan/memory_plan.h"

namespace tandem::plan {

// What the collectives hold on a rank: the partial sums of the largest all-reduce, over MPI or
// shared memory, whichever takes more; on rank 0 also the logits.
uint64_t CommunicationBytes(const parallel::ShardPlan& plan, int rank,
                            const model::DecoderOptions& options);

// The longest messages of collectives between GPUs (parallel::DeviceCommunicatorOptions), in
// floats.
struct DeviceMessages {
  int64_t max_floats = 0;
  int64_t max_gathered = 0;
};
DeviceMessages DeviceMessagesOf(const parallel::ShardPlan& plan,
                                const model::DecoderOptions& options, bool keeps_leaf_tree);

// Adds what a rank on a GPU needs beside weights, KV cache and workspace: scratch of the kernels,
// recorded steps, collectives between GPUs, pinned memory of the host. `bytes->streamed` must be
// set.
void AddGpuBytes(const parallel::ShardPlan& plan, const model::DecoderOptions& options,
                 bool keeps_leaf_tree, uint64_t scratch, MemoryPlan* bytes);

// One block (model::kBlockSize tokens) of the KV cache on one rank.
uint64_t KvBlockBytes(const loader::ModelConfig& config, const parallel::ShardPlan& plan, int rank,
                      kernels::KvDType kv_dtype);

}  // namespace tandem::plan
