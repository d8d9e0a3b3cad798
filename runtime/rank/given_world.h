// Which MPI world this process is in. No MPI in here: only the environment.
#pragma once

#include <functional>
#include <optional>

#include "absl/status/statusor.h"

namespace tandem::rank {

using GetEnv = std::function<const char*(const char*)>;

// The number of ranks of the world that mpirun or srun put this process into; nullopt where there
// is none and one has to be started. A batch script that Slurm runs is in no world, though its
// environment has SLURM variables. FAILED_PRECONDITION for srun without PMIx: every task would
// believe itself alone.
absl::StatusOr<std::optional<int>> FindWorld(const GetEnv& get_env);

}  // namespace tandem::rank
