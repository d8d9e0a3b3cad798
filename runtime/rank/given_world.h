// Which MPI world this process was started in, from the environment alone (without MPI).
#pragma once

#include <functional>
#include <optional>

#include "absl/status/statusor.h"

namespace tandem::rank {

using GetEnv = std::function<const char*(const char*)>;

// The number of ranks of the world that mpirun or srun started this process in; nullopt where there
// is no world and the launcher has to start one. A batch script under Slurm is in no world, though
// its environment has SLURM variables. FAILED_PRECONDITION for srun without PMIx: each task would
// run as a world of one.
absl::StatusOr<std::optional<int>> FindWorld(const GetEnv& get_env);

}  // namespace tandem::rank
