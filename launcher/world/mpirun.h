// How mpirun is called to start a world of ranks. This makes only the argument list.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/rank/given_world.h"
#include "runtime/rank/host_list.h"

namespace tandem::launcher {

using rank::GetEnv;

// mpirun (Open MPI 4.1) with `ranks` copies of `program` on `hosts`; no hosts: on this one. mpirun
// binds no rank to cores: the ranks divide the cores themselves and respect which ones this process
// may use, which mpirun would not. ssh asks no questions, unless the environment says how to reach
// hosts.
std::vector<std::string> MpirunCommand(const std::string& mpirun, bool root, int ranks,
                                       const std::vector<rank::HostSlots>& hosts,
                                       const std::vector<std::string>& exported,
                                       const std::vector<std::string>& program,
                                       const rank::GetEnv& get_env);

// Names of the environment variables that ranks on other hosts need too.
std::vector<std::string> ExportedVariables(const char* const* environment);

// The path of a program, found as the shell would. UNAVAILABLE if there is none.
absl::StatusOr<std::string> FindProgram(const std::string& name, const rank::GetEnv& get_env);

}  // namespace tandem::launcher
