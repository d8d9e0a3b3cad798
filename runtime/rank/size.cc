#include "runtime/rank/size.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/model/kv_cache.h"
#include "runtime/plan/host_limits.h"
#include "runtime/plan/rank_bytes.h"

namespace tandem::rank {
namespace {

// The KV cache takes this part of the free memory where --kv-memory is not given. Nobody else uses
// a GPU.
constexpr double kKvPart = 0.5;
constexpr double kGpuKvPart = 0.9;

model::DecoderOptions DecoderOptionsOf(const StartResults& start, const StepSizes& sizes) {
  const RankOptions& options = start.options;
  const bool on_gpu = !start.opened.backend->memory_is_host();
  model::DecoderOptions decoder;
  decoder.kv_dtype = start.opened.kv_dtype;
  decoder.max_tokens = sizes.tokens;
  decoder.max_rows = sizes.rows;
  decoder.max_sequences = sizes.sequences;
  decoder.max_blocks = sizes.sequence_blocks;
  decoder.recorded_sequences = options.max_num_seqs;
  decoder.timer = options.timer;
  decoder.weights = start.opened.weights;
  decoder.layers = model::LayersOf(options.stream_weights, on_gpu);
  decoder.stream_cpus = start.placed.stream_cpus;
  if (start.shared_memory != nullptr) {
    decoder.embedding.part = start.shared_memory->local_rank();
    decoder.embedding.parts = start.shared_memory->local_size();
  }
  return decoder;
}

// All but the KV cache.
plan::MemoryPlan PlanWithoutKv(const StartResults& start, const model::DecoderOptions& decoder,
                               int rank) {
  const kernels::Backend& backend = *start.opened.backend;
  const model::DecoderBytes bytes = model::Decoder::Plan(
      start.opened.config, *start.opened.checkpoint, start.shards, rank, backend, decoder);
  plan::MemoryPlan plan;
  plan.weights = bytes.weights;
  plan.embedding = bytes.embedding;
  plan.streamed = bytes.streamed;
  plan.present = bytes.present;
  plan.workspace = bytes.workspace;
  plan.communication = plan::CommunicationBytes(start.shards, rank, decoder);
  plan.process = plan::ResidentBytes();
  if (rank == 0) plan.preparation = start.options.preparation;
  if (const auto gpu = backend.device_memory()) {
    plan::AddGpuBytes(start.shards, decoder, backend.KeepsLeafTree(), gpu->scratch, &plan);
  }
  return plan;
}

// What a rank and all ranks that use the same memory still need of it.
struct Needs {
  uint64_t own = 0;
  uint64_t together = 0;
};

template <typename SameMemory>
absl::StatusOr<Needs> AddUp(parallel::ControlGroup& group, uint64_t own, SameMemory same) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<uint64_t> all, parallel::AllGather(group, own));
  Needs needs = {.own = own};
  for (int r = 0; r < group.size(); ++r) {
    if (same(r)) needs.together += all[r];
  }
  return needs;
}

absl::Status CheckGpuMemory(parallel::ControlGroup& group, const StartResults& start,
                            const plan::MemoryPlan& plan, const kernels::DeviceMemoryUse& gpu) {
  // The kernels have their scratch already.
  TANDEM_ASSIGN_OR_RETURN(const Needs needs, AddUp(group, plan.gpu() - plan.scratch, [&](int r) {
                            return start.gpus.same(r, group.rank());
                          }));
  absl::Status fits;
  if (needs.together > gpu.free) {
    fits = absl::ResourceExhaustedError(absl::StrCat(
        "memory: this rank needs ", Mebibytes(needs.own), " of its GPU, ", Mebibytes(plan.kv),
        " of them for the KV cache, the ranks on it ", Mebibytes(needs.together),
        " together; free are ", Mebibytes(gpu.free), " beside the kernels' ",
        Mebibytes(gpu.scratch), "; use more GPUs, a smaller format or less --kv-memory"));
  }
  return parallel::AgreeOnStatus(group, fits);
}

absl::Status CheckHostMemory(parallel::ControlGroup& group, const StartResults& start,
                             const plan::MemoryPlan& plan) {
  const uint64_t available = plan::AvailableMemory();
  const std::vector<RankPlace>& places = start.placed.places;
  // The process is here already.
  TANDEM_ASSIGN_OR_RETURN(Needs needs, AddUp(group, plan.host() - plan.process, [&](int r) {
                            return places[r].host == places[group.rank()].host;
                          }));
  needs.together *= static_cast<uint64_t>(start.placed.ranks_on_host / start.placed.local_size);
  absl::Status fits;
  if (needs.together > available) {
    const std::string largest =
        plan.on_gpu ? absl::StrCat(" of its host, ", Mebibytes(plan.pinned), " of them pinned")
                    : absl::StrCat(", ", Mebibytes(plan.kv), " of them for the KV cache");
    fits = absl::ResourceExhaustedError(absl::StrCat(
        "memory: this rank needs ", Mebibytes(needs.own), largest, ", the ranks of this host ",
        Mebibytes(needs.together), " together; free are ", Mebibytes(available),
        "; use more ranks on other hosts",
        plan.on_gpu ? " or a smaller format" : ", a smaller format or less --kv-memory"));
  }
  return parallel::AgreeOnStatus(group, fits);
}

// The plans of all ranks against what is free. Collective.
absl::Status CheckMemory(parallel::ControlGroup& group, const StartResults& start,
                         const plan::MemoryPlan& plan) {
  if (const auto gpu = start.opened.backend->device_memory()) {
    TANDEM_RETURN_IF_ERROR(CheckGpuMemory(group, start, plan, *gpu));
  }
  return CheckHostMemory(group, start, plan);
}

// The same number on all ranks. Collective.
absl::StatusOr<int64_t> AgreeOnBlocks(parallel::ControlGroup& group, const StartResults& start,
                                      const StepSizes& sizes, const plan::MemoryPlan& plan,
                                      uint64_t block_bytes) {
  const RankOptions& options = start.options;
  uint64_t memory = options.kv_memory;
  if (memory == 0 && block_bytes > 0) {
    memory =
        KvMemory(plan, FreeMemory(*start.opened.backend, start.gpus, start.placed, group.rank()));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int64_t> all,
                          parallel::AllGather(group, KvBlocksIn(memory, block_bytes, sizes)));
  const int64_t blocks = *std::min_element(all.begin(), all.end());
  if (blocks >= 1 && (options.max_model_len == 0 || blocks >= sizes.sequence_blocks)) return blocks;
  return absl::ResourceExhaustedError(
      absl::StrCat("KV cache: a context of ", sizes.context, " tokens needs ",
                   Mebibytes(sizes.sequence_blocks * block_bytes), " a rank, there is room for ",
                   blocks * model::kBlockSize,
                   " tokens; give a smaller --max-model-len, more --kv-memory or more ranks"));
}

}  // namespace

StepSizes StepSizesOf(const RankOptions& options, const loader::ModelConfig& config) {
  StepSizes sizes;
  sizes.context =
      options.max_model_len > 0 ? options.max_model_len : config.max_position_embeddings;
  sizes.tokens = options.max_batched_tokens;
  if (options.used_context > 0) {
    sizes.context = std::min(sizes.context, options.used_context);
    // A job's tokens need no larger step than they are.
    sizes.tokens = std::min(sizes.tokens, options.used_context * options.max_num_seqs);
  }
  // Every row of logits and every sequence has a token in the step. Drafts use the rows that other
  // sequences leave; a sequence alone has room for all of its drafts.
  const int64_t rows = options.max_rows > 0 ? options.max_rows
                                            : std::max<int64_t>(options.max_num_seqs,
                                                                1 + options.speculation.max_drafts);
  sizes.rows = std::min(sizes.tokens, rows);
  sizes.sequences = std::min(sizes.tokens, options.max_num_seqs);
  sizes.sequence_blocks = (sizes.context + model::kBlockSize - 1) / model::kBlockSize;
  sizes.useful_blocks = sizes.sequence_blocks * options.max_num_seqs;
  return sizes;
}

int64_t KvBlocksIn(uint64_t memory, uint64_t block_bytes, const StepSizes& sizes) {
  if (block_bytes == 0) return sizes.useful_blocks;  // this rank has no KV head
  return std::min<int64_t>(sizes.useful_blocks, static_cast<int64_t>(memory / block_bytes));
}

uint64_t KvMemory(const plan::MemoryPlan& plan, uint64_t free) {
  const uint64_t taken = plan.weights + plan.workspace +
                         (plan.on_gpu ? plan.graphs + plan.collectives
                                      : plan.embedding + plan.communication + plan.preparation);
  if (free <= taken) return 0;
  return static_cast<uint64_t>(static_cast<double>(free - taken) *
                               (plan.on_gpu ? kGpuKvPart : kKvPart));
}

absl::StatusOr<RankSize> SizeRank(parallel::ControlGroup& group, const StartResults& start) {
  const StepSizes sizes = StepSizesOf(start.options, start.opened.config);
  RankSize size;
  size.decoder = DecoderOptionsOf(start, sizes);
  size.plan = PlanWithoutKv(start, size.decoder, group.rank());
  TANDEM_RETURN_IF_ERROR(CheckMemory(group, start, size.plan));
  const uint64_t block_bytes =
      plan::KvBlockBytes(start.opened.config, start.shards, group.rank(), start.opened.kv_dtype);
  TANDEM_ASSIGN_OR_RETURN(size.decoder.num_blocks,
                          AgreeOnBlocks(group, start, sizes, size.plan, block_bytes));
  const int64_t kv_tokens = size.decoder.num_blocks * model::kBlockSize;
  size.plan.kv = size.decoder.num_blocks * block_bytes;
  size.max_model_len = std::min(sizes.context, kv_tokens);
  if (size.max_model_len < sizes.context && group.rank() == 0) {
    spdlog::warn("the KV cache holds {} tokens: contexts are limited to that, not the model's {}",
                 size.max_model_len, sizes.context);
  }
  TANDEM_RETURN_IF_ERROR(CheckMemory(group, start, size.plan));
  return size;
}

}  // namespace tandem::rank
