// Which MPI world this process is in, and how one is started. No MPI in here: only the
// environment and an argument list.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::launcher {

using GetEnv = std::function<const char*(const char*)>;

// The number of ranks of the world that mpirun or srun put this process into; nullopt where there
// is none and one has to be started. A batch script that Slurm runs is in no world, though its
// environment has SLURM variables. FAILED_PRECONDITION for srun without PMIx: every task would
// believe itself alone.
absl::StatusOr<std::optional<int>> FindWorld(const GetEnv& get_env);

struct Host {
  int cores = 1;            // physical ones that this process may use
  bool restricted = false;  // to fewer CPUs than the host has online
  bool root = false;
};

Host InspectHost();

// Cores shared out evenly, at least 1.
int DefaultThreads(const Host& host, int ranks);

// mpirun (Open MPI 4.1) with `ranks` copies of `program`, each with `threads` threads. Ranks are
// bound to cores of their own where there are enough; otherwise, or where this process is
// restricted to some CPUs (mpirun would not respect that), to none.
std::vector<std::string> MpirunCommand(const std::string& mpirun, const Host& host, int ranks,
                                       int threads, const std::vector<std::string>& exported,
                                       const std::vector<std::string>& program);

// Names of this process's variables that ranks on other hosts need too.
std::vector<std::string> ExportedVariables(const char* const* environment);

// The path of a program as the shell would find it. UNAVAILABLE if there is none.
absl::StatusOr<std::string> FindProgram(const std::string& name, const GetEnv& get_env);

}  // namespace tandem::launcher
