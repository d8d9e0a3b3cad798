// One rank with its model loaded: the results of the start's steps, and the loop that runs steps.
//
// The start (each step is a function of its own, with a result of its own):
//   place.h              CPUs of this rank, hosts of all
//   open_model.h         files, backend
//   agree.h              the same setup on all ranks
//   shards.h             who holds what
//   step_collectives.h   how ranks exchange within steps
//   size.h               memory plan, KV cache
//   load.h               weights
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/mpi_world.h"
#include "runtime/engine/model_runner.h"
#include "runtime/plan/host_limits.h"
#include "runtime/rank/load.h"
#include "runtime/rank/options.h"
#include "runtime/rank/report.h"

namespace tandem::rank {

class RankRuntime {
 public:
  // Loads this rank's shard. world is null in a world of one without MPI, else outlives the
  // runtime. Collective; all ranks get the same error.
  static absl::StatusOr<std::unique_ptr<RankRuntime>> Load(parallel::MpiWorld* world,
                                                           const RankOptions& options);

  int rank() const { return start_->rank(); }
  int tp() const { return start_->size(); }
  const loader::ModelFolder& folder() const { return opened_.folder; }
  const loader::ModelConfig& config() const { return opened_.config; }
  const loader::GenerationConfig& generation() const { return opened_.generation; }
  // generation_config.json's, else config.json's.
  const std::vector<int32_t>& eos_token_ids() const;
  const std::vector<RankPlace>& places() const { return placed_.places; }  // of all ranks
  const Binding& binding() const { return placed_.binding; }
  int local_rank() const { return placed_.local_rank; }
  bool on_gpu() const { return !opened_.backend->memory_is_host(); }
  model::LayersIn layers() const { return size_.decoder.layers; }
  int ranks_on_host() const { return placed_.ranks_on_host; }
  parallel::StepTimer* timer() const { return size_.decoder.timer; }
  kernels::KvDType kv_dtype() const { return opened_.kv_dtype; }
  // All ranks, outside of steps.
  parallel::ControlGroup& communicator() { return *collectives_.control; }
  model::Decoder& decoder() { return *loaded_.decoder; }
  // Of the layers' matrices as held: "BF16", "INT4, groups of 128".
  const std::string& weight_format() const { return opened_.weight_format; }
  const plan::MemoryPlan& plan() const { return size_.plan; }
  int64_t num_blocks() const { return size_.decoder.num_blocks; }
  int64_t max_model_len() const { return size_.max_model_len; }
  int64_t max_batched_tokens() const { return size_.decoder.max_tokens; }
  int64_t max_rows() const { return size_.decoder.max_rows; }  // of logits in one step

  // Rank 0 runs steps on all ranks with it.
  engine::ModelRunner& runner() { return *runner_; }
  // Other ranks run rank 0's steps, until rank 0 shuts down. May be called again.
  absl::Status Work();

  // All ranks, for GetServerStatus. Rank 0, any thread.
  std::vector<server::RankInfo> DescribeRanks() const;

  // Collective, after the last step: the reports of all ranks, by rank.
  absl::StatusOr<std::vector<RankReport>> GatherReports();

 private:
  RankRuntime(std::unique_ptr<parallel::ControlGroup> start, Placement placed, OpenedModel opened,
              GpuMap gpus)
      : start_(std::move(start)),
        placed_(std::move(placed)),
        opened_(std::move(opened)),
        gpus_(std::move(gpus)) {}
  absl::Status LoadShard(const parallel::MpiWorld* world, const RankOptions& options);
  // Rank 0, once nothing can fail any more: an error is one line alone.
  void LogStart() const;
  void LogSizes(const RankOptions& options) const;

  // Destroyed from the last to the first.
  std::unique_ptr<parallel::ControlGroup> start_;  // waits as long as the world's start may take
  Placement placed_;
  StepCollectives collectives_;
  OpenedModel opened_;
  GpuMap gpus_;
  RankSize size_;
  LoadedModel loaded_;
  plan::PeakMemory peak_;
  std::vector<server::RankInfo> ranks_;          // when all had loaded
  std::unique_ptr<engine::ModelRunner> runner_;  // rank 0's
};

}  // namespace tandem::rank
