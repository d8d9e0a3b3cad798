// What a rank is asked to load and how, as plain values.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "kernels/kv_cache_view.h"
#include "parallel/collectives.h"
#include "parallel/step_timer.h"
#include "parallel/timeouts.h"
#include "runtime/engine/speculation_options.h"
#include "runtime/rank/cpu_binding.h"

namespace tandem::rank {

struct RankOptions {
  std::string model;           // folder or name in the hub's cache
  int threads = 0;             // of this rank; 0: the host's CPUs, divided among its ranks
  std::string isa = "auto";    // as kernels::MakeCpuBackend
  std::string device = "cpu";  // or cuda: the GPU with the rank's number on its host
  bool deterministic = false;  // as kernels::CudaOptions
  std::string dtype = "auto";  // of weights, as model::WeightRequests::Parse
  int64_t group_size = 0;
  std::string head_dtype = "auto";
  std::string packed_cache;       // folder of packed weights; empty: none
  bool stream_weights = false;    // layers stay in the packed file, or for a GPU in host memory
  std::string kv_dtype = "auto";  // as KvDType
  std::string shards = "even";    // as ShardWeights (shards.h)
  int64_t max_model_len = 0;      // tokens; 0: the model's own, or what fits
  int64_t used_context = 0;       // tokens of the longest sequence of this job; 0: not known
  uint64_t kv_memory = 0;         // bytes of KV cache on each rank; 0: what the plan leaves
  uint64_t preparation = 0;       // bytes that a server on rank 0 may use to prepare requests
  int64_t max_num_seqs = 64;
  int64_t max_rows = 0;  // rows of logits in one step; 0: max_num_seqs, or what drafts need
  engine::SpeculationOptions speculation;
  int64_t max_batched_tokens = 512;
  bool bind = true;  // bind each thread to a core of its own
  // Where other worlds run on this host: which part of its CPUs and of its memory is this world's.
  HostShare cpus, memory;
  parallel::CollectivesChoice collectives = parallel::CollectivesChoice::kAuto;
  std::string gpu_collectives = "auto";  // as parallel::DeviceCommunicatorOptions::way
  parallel::Timeouts timeouts = {.step = parallel::kPatientStep};
  parallel::StepTimer* timer = nullptr;  // outlives the runtime; null: off
};

// The type that --kv-dtype names: auto (that of the weights), fp32, fp16, bf16 or int8.
absl::StatusOr<kernels::KvDType> KvDType(const std::string& name, kernels::DType weights);

}  // namespace tandem::rank
