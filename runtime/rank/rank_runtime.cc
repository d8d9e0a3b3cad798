#include "runtime/rank/rank_runtime.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "parallel/all_gather.h"
#include "runtime/rank/agree.h"
#include "runtime/rank/shards.h"

namespace tandem::rank {

absl::StatusOr<std::unique_ptr<RankRuntime>> RankRuntime::Load(parallel::MpiWorld* world,
                                                               const RankOptions& options) {
  std::unique_ptr<parallel::ControlGroup> start = std::make_unique<parallel::SelfGroup>();
  if (world != nullptr) start = world->MakeControlGroup();
  TANDEM_ASSIGN_OR_RETURN(Placement placed, PlaceRank(world, *start, options));
  absl::StatusOr<OpenedModel> opened = OpenModel(options, placed);
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(*start, opened.status()));
  if (start->rank() == 0) LogModelWarnings(*opened);
  TANDEM_RETURN_IF_ERROR(AgreeOnSetup(*start, options, *opened));
  TANDEM_ASSIGN_OR_RETURN(GpuMap gpus, MapGpus(*start, placed, *opened->backend));
  std::unique_ptr<RankRuntime> runtime(
      new RankRuntime(std::move(start), std::move(placed), *std::move(opened), std::move(gpus)));
  TANDEM_RETURN_IF_ERROR(runtime->LoadShard(world, options));
  return runtime;
}

absl::Status RankRuntime::LoadShard(const parallel::MpiWorld* world, const RankOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const parallel::ShardPlan shards,
                          DivideModel(*start_, options.shards, opened_.config,
                                      FreeMemory(*opened_.backend, gpus_, placed_, rank())));
  TANDEM_ASSIGN_OR_RETURN(collectives_,
                          MakeStepCollectives(world, *start_, options, placed_.binding.own_cores));
  const StartResults results = {.options = options,
                                .placed = placed_,
                                .opened = opened_,
                                .gpus = gpus_,
                                .shards = shards,
                                .shared_memory = collectives_.host.host.get()};
  TANDEM_ASSIGN_OR_RETURN(size_, SizeRank(communicator(), results));
  TANDEM_ASSIGN_OR_RETURN(loaded_, LoadModel(*start_, results, collectives_, size_.decoder));
  peak_.Sample();
  LogSizes(options);
  TANDEM_ASSIGN_OR_RETURN(ranks_, GatherRankInfos(communicator(), results, size_.plan, loaded_));
  LogPlanDifferences(size_.plan, *loaded_.decoder);
  if (rank() != 0) return absl::OkStatus();
  LogStart();
  runner_ = std::make_unique<engine::ModelRunner>(
      loaded_.decoder.get(), collectives_.host.channel.get(), collectives_.control);
  return absl::OkStatus();
}

void RankRuntime::LogSizes(const RankOptions& options) const {
  const plan::MemoryPlan& plan = size_.plan;
  spdlog::debug(
      "rank {}: {} threads of {}, weights {}, head {}, {} read, planned {}: weights {}, "
      "embedding {}, KV {}, workspace {}, communication {}, process {}, preparation {}",
      rank(), placed_.binding.threads, kernels::IsaInUse(options.isa), opened_.weight_format,
      opened_.head_format, Mebibytes(loaded_.decoder->bytes_read()), Mebibytes(plan.total()),
      Mebibytes(plan.weights), Mebibytes(plan.embedding), Mebibytes(plan.kv),
      Mebibytes(plan.workspace), Mebibytes(plan.communication), Mebibytes(plan.process),
      Mebibytes(plan.preparation));
}

void RankRuntime::LogStart() const {
  for (size_t r = 0; r < placed_.bindings.size(); ++r) {
    spdlog::info("rank {}: {}", r, placed_.bindings[r]);
  }
  if (tp() > 1) spdlog::info("collectives: {}", collectives_.host.description);
  const model::Decoder& decoder = *loaded_.decoder;
  if (!decoder.recording_failure().ok()) {
    spdlog::warn("steps are not recorded, which makes decoding slower: {}",
                 std::string(decoder.recording_failure().message()));
  } else if (decoder.recorded_steps() > 0) {
    spdlog::info("recorded {} steps for replay, {} of the GPU", decoder.recorded_steps(),
                 Mebibytes(decoder.recorded_bytes()));
  }
}

const std::vector<int32_t>& RankRuntime::eos_token_ids() const {
  const std::vector<int32_t>& ids = opened_.generation.eos_token_ids;
  return ids.empty() ? opened_.config.eos_token_ids : ids;
}

absl::Status RankRuntime::Work() {
  return engine::RunWorker(*loaded_.decoder, *collectives_.host.channel, communicator(), timer());
}

std::vector<server::RankInfo> RankRuntime::DescribeRanks() const {
  return UpdateRankInfos(ranks_, placed_.places);
}

absl::StatusOr<std::vector<RankReport>> RankRuntime::GatherReports() {
  peak_.Sample();
  const uint64_t gpu_taken = ranks_[rank()].gpu_bytes;
  const RankReport mine = {.bytes_read = loaded_.decoder->bytes_read(),
                           .planned_bytes = size_.plan.host(),
                           .peak_memory = peak_.bytes(),
                           .planned_gpu = size_.plan.gpu(),
                           .gpu_memory = gpu_taken > 0 ? gpu_taken + size_.plan.scratch : 0};
  return parallel::AllGather(communicator(), mine);
}

}  // namespace tandem::rank
