#include "launcher/command/runtime_options.h"

namespace tandem::launcher {

rank::RankOptions RankOptionsOf(const ModelOptions& model) {
  rank::RankOptions options;
  options.model = model.model;
  options.threads = model.threads;
  options.isa = model.isa;
  options.device = model.device;
  options.deterministic = model.deterministic;
  options.dtype = model.dtype;
  options.group_size = model.group_size;
  options.head_dtype = model.head_dtype;
  options.packed_cache = model.packed_cache;
  options.stream_weights = model.weights == "stream";
  options.kv_dtype = model.kv_dtype;
  options.shards = model.shards;
  options.max_model_len = model.max_model_len;
  options.kv_memory = model.kv_memory;
  options.max_num_seqs = model.max_num_seqs;
  options.max_batched_tokens = model.max_batched_tokens;
  options.bind = model.bind;
  options.collectives = model.collectives == "shm"   ? parallel::CollectivesChoice::kShm
                        : model.collectives == "mpi" ? parallel::CollectivesChoice::kMpi
                                                     : parallel::CollectivesChoice::kAuto;
  options.gpu_collectives = model.gpu_collectives;
  return options;
}

engine::LoadGuardOptions LoadGuardOptionsOf(const WatchLimits& limits) {
  return {.kv_low = limits.kv.first,
          .kv_high = limits.kv.second,
          .fragmentation_low = limits.fragmentation.first,
          .fragmentation_high = limits.fragmentation.second,
          .latency_warning = limits.latency.first,
          .latency_alarm = limits.latency.second};
}

batch::JobOptions JobOptionsOf(const BatchOptions& options) {
  return {.rank = RankOptionsOf(options.model),
          .tp = options.model.tp,
          .hosts = options.model.hosts,
          .start_timeout = options.model.start_timeout,
          .watch = LoadGuardOptionsOf(options.watch),
          .input = options.input,
          .output = options.output,
          .errors = options.errors,
          .on_error = options.on_error,
          .replicas = options.replicas,
          .progress_interval = options.progress_interval,
          .ordered = options.ordered,
          .time_limit = options.time_limit,
          .sampling = options.sampling};
}

}  // namespace tandem::launcher
