// Which MPI world this process is in, and how one is started. No MPI in here: only the
// environment and an argument list.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/rank/host_list.h"

namespace tandem::launcher {

using GetEnv = std::function<const char*(const char*)>;

// The number of ranks of the world that mpirun or srun put this process into; nullopt where there
// is none and one has to be started. A batch script that Slurm runs is in no world, though its
// environment has SLURM variables. FAILED_PRECONDITION for srun without PMIx: every task would
// believe itself alone.
absl::StatusOr<std::optional<int>> FindWorld(const GetEnv& get_env);

// mpirun (Open MPI 4.1) with `ranks` copies of `program` on `hosts`, or where that is empty on this
// one. Ranks are bound to nothing: they share out the cores among themselves, which respects what
// this process may use, as mpirun would not. ssh is not to ask anything, unless the environment
// says how hosts are reached.
std::vector<std::string> MpirunCommand(const std::string& mpirun, bool root, int ranks,
                                       const std::vector<HostSlots>& hosts,
                                       const std::vector<std::string>& exported,
                                       const std::vector<std::string>& program,
                                       const GetEnv& get_env);

// Names of this process's variables that ranks on other hosts need too.
std::vector<std::string> ExportedVariables(const char* const* environment);

// The path of a program as the shell would find it. UNAVAILABLE if there is none.
absl::StatusOr<std::string> FindProgram(const std::string& name, const GetEnv& get_env);

}  // namespace tandem::launcher
