#include "runtime/rank/report.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/plan/host_limits.h"

namespace tandem::rank {
namespace {

struct LoadedMessage {
  plan::MemoryPlan plan;
  uint64_t resident = 0;
};

// What all ranks that use this rank's GPU have taken of it, beside the kernels' scratch.
uint64_t TakenOfGpu(const std::vector<LoadedMessage>& ranks, int rank, const StartResults& start,
                    const model::Decoder& decoder) {
  const auto gpu = start.opened.backend->device_memory();
  if (!gpu) return 0;
  const GpuMap& gpus = start.gpus;
  uint64_t planned = 0;
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (!gpus.same(static_cast<int>(r), rank)) continue;
    planned += ranks[r].plan.gpu() - ranks[r].plan.scratch;
  }
  const uint64_t taken = gpus.free - std::min(gpus.free, gpu->free);
  spdlog::log(taken > planned ? spdlog::level::warn : spdlog::level::info,
              "GPU memory: planned {}, taken {}, by {} rank(s); recorded steps have {} of {}",
              Mebibytes(planned), Mebibytes(taken), plan::RanksOnGpu(gpus.names, rank),
              Mebibytes(decoder.recorded_bytes()), Mebibytes(ranks[rank].plan.graphs));
  return taken;
}

}  // namespace

absl::StatusOr<std::vector<server::RankInfo>> GatherRankInfos(parallel::ControlGroup& group,
                                                              const StartResults& start,
                                                              const plan::MemoryPlan& plan,
                                                              const LoadedModel& loaded) {
  const LoadedMessage mine = {.plan = plan, .resident = plan::ResidentBytes()};
  TANDEM_ASSIGN_OR_RETURN(const std::vector<LoadedMessage> ranks, parallel::AllGather(group, mine));
  const uint64_t own = TakenOfGpu(ranks, group.rank(), start, *loaded.decoder);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<uint64_t> taken, parallel::AllGather(group, own));
  std::vector<server::RankInfo> infos;
  for (size_t r = 0; r < ranks.size(); ++r) {
    infos.push_back({.host = start.placed.places[r].host,
                     .pid = start.placed.places[r].pid,
                     .planned = ranks[r].plan,
                     .measured_bytes = ranks[r].resident,
                     .loaded_bytes = ranks[r].resident,
                     .gpu_bytes = taken[r]});
  }
  return infos;
}

std::vector<server::RankInfo> UpdateRankInfos(std::vector<server::RankInfo> loaded,
                                              const std::vector<RankPlace>& places) {
  for (size_t r = 0; r < loaded.size(); ++r) {
    if (places[r].pid_namespace != places[0].pid_namespace) continue;
    const uint64_t now = plan::ResidentBytes(places[r].pid);
    loaded[r].seen = true;
    loaded[r].ended = now == 0;
    if (now > 0) loaded[r].measured_bytes = now;
  }
  return loaded;
}

}  // namespace tandem::rank
