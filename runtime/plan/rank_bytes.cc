#include "runtime/plan/rank_bytes.h"

#include <algorithm>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_bytes.h"
#include "parallel/shm_host.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/row_sampling.h"

namespace tandem::plan {
namespace {

// What MPI itself allocates when it first exchanges with a rank of its host.
constexpr uint64_t kMpiBytesPerPeer = 64 << 10;

// The part of the shared slots (parallel/shm_host.h) that all-reduces of so many floats fill. A
// rank maps the slots of all ranks.
uint64_t SharedSlotBytes(const parallel::ShardPlan& plan, uint64_t floats) {
  const uint64_t slot = parallel::ShmOptions().slot_bytes;
  uint64_t bytes = 2 * std::min(slot, floats * sizeof(float));  // results
  for (int r = 0; r < plan.tp; ++r) {
    const uint64_t rows = std::max(plan.attention_tree.node_count(r), plan.ffn_tree.node_count(r));
    bytes += 2 * std::min(slot, rows * floats * sizeof(float));
  }
  return bytes;
}

}  // namespace

uint64_t CommunicationBytes(const parallel::ShardPlan& plan, int rank,
                            const model::DecoderOptions& options) {
  uint64_t bytes = 0;
  if (plan.tp > 1) {
    const uint64_t nodes = std::max(plan.attention_tree.nodes.size(), plan.ffn_tree.nodes.size());
    const uint64_t floats = options.max_tokens * plan.shape.hidden;
    const uint64_t over_mpi =
        nodes * std::max<uint64_t>(floats / plan.tp + 1, 8 << 10) * sizeof(float);
    bytes = std::max(over_mpi, SharedSlotBytes(plan, floats)) + (plan.tp - 1) * kMpiBytesPerPeer;
  }
  if (rank == 0) {
    const uint64_t copies = plan.tp > 1 ? 2 : 1;
    bytes += copies * options.max_rows * plan.shape.vocab * sizeof(float);
  }
  return bytes;
}

DeviceMessages DeviceMessagesOf(const parallel::ShardPlan& plan,
                                const model::DecoderOptions& options, bool keeps_leaf_tree) {
  int64_t sums = 1;  // of a rank, in one all-reduce
  if (keeps_leaf_tree) {
    sums = std::max({sums, plan.attention_tree.max_node_count(), plan.ffn_tree.max_node_count()});
  }
  const model::SamplingTraffic sampling = model::RowSampling::Traffic(plan, options.max_rows);
  const int64_t widest = *std::max_element(plan.vocab_widths.begin(), plan.vocab_widths.end());
  return {.max_floats = std::max(sums * options.max_tokens * plan.shape.hidden, sampling.reduced),
          .max_gathered = std::max(options.max_rows * widest, sampling.gathered)};
}

void AddGpuBytes(const parallel::ShardPlan& plan, const model::DecoderOptions& options,
                 bool keeps_leaf_tree, uint64_t scratch, MemoryPlan* bytes) {
  const DeviceMessages messages = DeviceMessagesOf(plan, options, keeps_leaf_tree);
  const parallel::DeviceBytes collectives =
      parallel::DeviceCommunicatorBytes(plan.tp, messages.max_floats, messages.max_gathered);
  bytes->on_gpu = true;
  bytes->scratch = scratch;
  bytes->graphs = options.records() ? options.recording.bytes : 0;
  bytes->collectives = collectives.gpu;
  bytes->pinned = collectives.pinned + kernels::kCudaPinnedBytes + bytes->streamed;
}

uint64_t KvBlockBytes(const loader::ModelConfig& config, const parallel::ShardPlan& plan, int rank,
                      kernels::KvDType kv_dtype) {
  return model::KvCache::BlockBytes({.layers = config.num_layers,
                                     .kv_heads = plan.ranks[rank].kv_heads.size(),
                                     .head_dim = config.head_dim,
                                     .dtype = kv_dtype});
}

}  // namespace tandem::plan
