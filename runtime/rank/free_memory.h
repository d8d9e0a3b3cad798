// What memory a rank may take: of its GPU where it computes on one, else of its host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "parallel/control_group.h"
#include "runtime/rank/place.h"

namespace tandem::rank {

// The GPUs of all ranks, measured when every rank had its backend and nothing else.
struct GpuMap {
  std::vector<std::string> names;  // by rank, with the host; empty: that rank has no GPU
  uint64_t free = 0;               // bytes of this rank's GPU

  bool same(int a, int b) const { return names[a] == names[b]; }
};

// Collective.
absl::StatusOr<GpuMap> MapGpus(parallel::ControlGroup& group, const Placement& placed,
                               const kernels::Backend& backend);

// Bytes that are free now and belong to this rank, if the ranks of its GPU or host divide them
// equally.
uint64_t FreeMemory(const kernels::Backend& backend, const GpuMap& gpus, const Placement& placed,
                    int rank);

// "512 MiB".
std::string Mebibytes(uint64_t bytes);

}  // namespace tandem::rank
