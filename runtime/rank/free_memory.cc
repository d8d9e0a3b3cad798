#include "runtime/rank/free_memory.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/plan/host_limits.h"
#include "runtime/plan/memory_plan.h"

namespace tandem::rank {

absl::StatusOr<GpuMap> MapGpus(parallel::ControlGroup& group, const Placement& placed,
                               const kernels::Backend& backend) {
  GpuMap gpus;
  const auto gpu = backend.device_memory();
  const std::string name = gpu ? absl::StrCat(placed.places[group.rank()].host, " ", gpu->id) : "";
  TANDEM_ASSIGN_OR_RETURN(gpus.names, group.AllGatherBytes(name));
  if (gpu) gpus.free = gpu->free;
  return gpus;
}

uint64_t FreeMemory(const kernels::Backend& backend, const GpuMap& gpus, const Placement& placed,
                    int rank) {
  if (const auto gpu = backend.device_memory()) {
    return gpu->free / plan::RanksOnGpu(gpus.names, rank);
  }
  return plan::AvailableMemory() / placed.ranks_on_host;
}

std::string Mebibytes(uint64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

}  // namespace tandem::rank
