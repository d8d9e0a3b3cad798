// One rank, put together: MPI, backend, checkpoint, decoder, and what they agreed
// on. Built once at start; a failure is the same on every rank.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "parallel/collectives.h"
#include "parallel/mpi_world.h"
#include "parallel/timeouts.h"
#include "runtime/engine/model_runner.h"
#include "runtime/loader/generation_config.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/model/decoder.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/rank/cpu_binding.h"
#include "runtime/rank/peer_watch.h"
#include "runtime/server/served_model.h"

namespace tandem::rank {

struct RankOptions {
  std::string model;           // folder or name in the hub's cache
  int threads = 0;             // a rank's; 0: its share of the host's CPUs
  std::string isa = "auto";    // as kernels::MakeCpuBackend
  std::string device = "cpu";  // or cuda: the GPU with the rank's number on its host
  bool deterministic = false;  // as kernels::CudaOptions
  std::string dtype = "auto";  // of weights, as model::WeightRequests::Parse
  int64_t group_size = 0;
  std::string head_dtype = "auto";
  std::string packed_cache;       // folder of packed weights; empty: none
  bool stream_weights = false;    // layers stay in its file; those of a GPU in the host's memory
  std::string kv_dtype = "auto";  // auto (as the weights), fp32, fp16, bf16, int8
  std::string shards = "even";    // even, auto (by the ranks' free memory), or weights 3,3,2
  int64_t max_model_len = 0;      // tokens; 0: the model's own, or what fits
  int64_t used_context = 0;       // no sequence of this run gets longer; 0: not known
  uint64_t kv_memory = 0;         // bytes of KV cache a rank; 0: what the plan leaves
  int64_t max_num_seqs = 64;
  int64_t max_rows = 0;  // of logits in one step; 0: max_num_seqs
  int64_t max_batched_tokens = 512;
  bool bind = true;  // threads to cores of their own
  // Where other worlds run on this host: of the CPUs that this rank may use, and of its memory.
  HostShare cpus, memory;
  parallel::CollectivesChoice collectives = parallel::CollectivesChoice::kAuto;
  std::string gpu_collectives = "auto";  // as parallel::DeviceCommunicatorOptions::way
  parallel::Timeouts timeouts = {.step = parallel::kPatientStep};
  parallel::StepTimer* timer = nullptr;  // outlives the runtime; null: off
};

// The type that --kv-dtype names; auto: the type of the weights.
absl::StatusOr<kernels::KvDType> KvDType(const std::string& name, kernels::DType weights);

// What a rank reports at the end.
struct RankReport {
  uint64_t bytes_read = 0;     // of weights, from the checkpoint
  uint64_t planned_bytes = 0;  // of the host, MemoryPlan's
  uint64_t peak_memory = 0;    // anonymous and shared; what a rank takes it keeps, so that
                               // the end shows it; with streamed weights, file pages that came
                               // with them
  uint64_t planned_gpu = 0;    // of the rank's GPU, MemoryPlan's; 0: none
  uint64_t gpu_memory = 0;     // taken of it by all ranks that have it; 0: none
};

class RankRuntime {
 public:
  // Loads this rank's share. world is null in a world of one without MPI, else
  // outlives the runtime. All ranks get the same error.
  static absl::StatusOr<std::unique_ptr<RankRuntime>> Load(parallel::MpiWorld* world,
                                                           const RankOptions& options);

  int rank() const { return communicator_->rank(); }
  int tp() const { return communicator_->size(); }
  const loader::ModelFolder& folder() const { return *folder_; }
  const loader::ModelConfig& config() const { return config_; }
  const loader::GenerationConfig& generation() const { return generation_; }
  // generation_config.json's, else config.json's.
  const std::vector<int32_t>& eos_token_ids() const;
  const std::vector<RankPlace>& places() const { return places_; }  // of all ranks
  const Binding& binding() const { return binding_; }
  int local_rank() const { return local_rank_; }
  bool on_gpu() const { return !backend_->memory_is_host(); }
  model::LayersIn layers() const { return decoder_options_.layers; }
  int ranks_on_host() const { return host_ranks_; }
  parallel::StepTimer* timer() const { return timer_; }
  kernels::KvDType kv_dtype() const { return kv_dtype_; }
  parallel::ControlGroup& communicator() { return *communicator_; }
  model::Decoder& decoder() { return *decoder_; }
  // Of the layers' matrices as held: "BF16", "INT4, groups of 128".
  const std::string& weight_format() const { return weight_format_; }
  const plan::MemoryPlan& plan() const { return plan_; }
  int64_t num_blocks() const { return num_blocks_; }
  int64_t max_model_len() const { return max_model_len_; }
  int64_t max_batched_tokens() const { return decoder_options_.max_tokens; }

  // Rank 0's way to run steps on all ranks.
  engine::ModelRunner& runner() { return *runner_; }
  // Other ranks: until rank 0 shuts down. May be called again.
  absl::Status Work();

  // Of all ranks, as GetServerStatus tells them. Rank 0, any thread.
  std::vector<server::RankInfo> DescribeRanks() const;

  // After the last step, on all ranks: everybody's report, by rank.
  absl::StatusOr<std::vector<RankReport>> GatherReports();

 private:
  RankRuntime() = default;
  // Decides on threads and CPUs with the other ranks of the host, and binds this thread.
  // Collective.
  absl::Status Bind(const parallel::MpiWorld* world, const RankOptions& options);
  absl::Status Prepare(const RankOptions& options);  // local, before anything large
  absl::Status MakeBackend(const RankOptions& options);
  // That this rank may take: its share of its GPU's, or of the host's.
  uint64_t FreeMemory() const;
  // The plans of all ranks that have this one's GPU against what they have taken; what they took.
  uint64_t CheckGpuMemory(const std::vector<plan::MemoryPlan>& plans) const;
  absl::Status CutShards(const RankOptions& options);  // collective
  absl::Status SizeCache(const RankOptions& options);  // collective
  absl::Status CheckMemory();                          // collective: the plan against what is free
  absl::Status LoadDecoder(const RankOptions& options);     // local
  absl::Status CheckAgreement(const RankOptions& options);  // collective
  absl::Status GatherRanks();                               // collective
  // Collective; none in a world of one.
  absl::Status MakeCollectives(const parallel::MpiWorld* world, const RankOptions& options);
  // Collective; none where the backend's memory is the host's.
  absl::Status MakeDeviceCollectives(const RankOptions& options);

  parallel::StepTimer* timer_ = nullptr;           // not owned
  int local_size_ = 1;                             // ranks of this world on this host
  int local_rank_ = 0;                             // among all of the host, other worlds included
  int host_ranks_ = 1;                             // with those of other worlds, all alike
  std::unique_ptr<parallel::ControlGroup> start_;  // with the world's patience
  parallel::Collectives collectives_;              // of steps; empty in a world of one
  parallel::ControlGroup* communicator_ = nullptr;
  parallel::Communicator* untimed_ = nullptr;  // collectives_.communicator without a timer
  std::optional<loader::ModelFolder> folder_;
  std::vector<RankPlace> places_;
  std::vector<server::RankInfo> ranks_;  // when all had loaded
  loader::ModelConfig config_;
  loader::GenerationConfig generation_;
  std::unique_ptr<loader::Checkpoint> checkpoint_;  // until the decoder takes it
  std::vector<int64_t> shard_weights_;
  parallel::ShardPlan shards_;
  std::unique_ptr<loader::PackedFile> packed_;  // null: none
  std::unique_ptr<kernels::Backend> backend_;
  Binding binding_;
  std::vector<std::string> bindings_;  // of all ranks, in words
  std::string weight_format_, head_format_;
  kernels::KvDType kv_dtype_ = kernels::KvDType::kF32;
  int64_t max_model_len_ = 0;
  int64_t num_blocks_ = 0;
  model::DecoderOptions decoder_options_;
  plan::MemoryPlan plan_;
  plan::PeakMemory peak_;
  uint64_t file_bytes_ = 0;                         // present before weights were loaded
  std::vector<std::string> gpus_;                   // of all ranks, with their hosts; empty: none
  uint64_t gpu_free_ = 0;                           // when all had their backends alone
  uint64_t gpu_taken_ = 0;                          // since, by all ranks that have it
  std::unique_ptr<parallel::Communicator> device_;  // of steps on a GPU; else null
  std::unique_ptr<model::Decoder> decoder_;
  std::unique_ptr<engine::ModelRunner> runner_;
};

}  // namespace tandem::rank
