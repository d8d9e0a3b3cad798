#include "runtime/rank/load.h"

#include <spdlog/spdlog.h>

#include <string>
#include <utility>

#include "kernels/base/status_macros.h"
#include "runtime/plan/host_limits.h"
#include "runtime/rank/packed_cache.h"

namespace tandem::rank {
namespace {

// A larger difference between planned and measured bytes, as a part of the plan, is a warning.
constexpr double kPlanTolerance = 0.05;

void LogPlanDifference(const char* purpose, uint64_t planned, uint64_t measured) {
  const uint64_t difference = planned > measured ? planned - measured : measured - planned;
  const bool large =
      static_cast<double>(difference) > kPlanTolerance * static_cast<double>(planned);
  spdlog::log(large ? spdlog::level::warn : spdlog::level::info,
              "{}: planned {} bytes, measured {}", purpose, planned, measured);
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(parallel::ControlGroup& group, const StartResults& start,
                                      const StepCollectives& collectives,
                                      model::DecoderOptions decoder) {
  const RankOptions& options = start.options;
  OpenedModel& opened = start.opened;
  LoadedModel loaded;
  if (!options.packed_cache.empty()) {
    TANDEM_ASSIGN_OR_RETURN(loaded.packed,
                            OpenPackedWeights({.directory = options.packed_cache,
                                               .model = opened.folder,
                                               .config = opened.config,
                                               .checkpoint = *opened.checkpoint,
                                               .weights = opened.weights,
                                               .required = options.stream_weights},
                                              start.placed.places, *opened.backend, group));
    decoder.packed = loaded.packed.get();
  }
  TANDEM_ASSIGN_OR_RETURN(loaded.gpu_steps, MakeGpuCollectives(collectives, *opened.backend,
                                                               start.shards, decoder, options));
  parallel::Communicator& steps =
      loaded.gpu_steps != nullptr ? *loaded.gpu_steps : *collectives.host.communicator;
  loaded.file_bytes_before = plan::PresentFileBytes();
  auto read = model::Decoder::Load(opened.config, std::move(opened.checkpoint), start.shards,
                                   *opened.backend, steps, decoder);
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(group, read.status()));
  loaded.decoder = *std::move(read);
  TANDEM_RETURN_IF_ERROR(loaded.decoder->RecordSteps());
  return loaded;
}

void LogPlanDifferences(const plan::MemoryPlan& plan, const model::Decoder& decoder) {
  const model::DecoderBytes held = decoder.bytes();
  LogPlanDifference("weights", plan.weights, held.weights);
  LogPlanDifference("KV cache", plan.kv, held.kv);
  LogPlanDifference("workspace", plan.workspace, held.workspace);
}

}  // namespace tandem::rank
