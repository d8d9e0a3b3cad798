// How a world of ranks is started with mpirun. No MPI in here: only an argument list.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/rank/given_world.h"
#include "runtime/rank/host_list.h"

namespace tandem::launcher {

using rank::GetEnv;

// mpirun (Open MPI 4.1) with `ranks` copies of `program` on `hosts`, or where that is empty on this
// one. Ranks are bound to nothing: they share out the cores among themselves, which respects what
// this process may use, as mpirun would not. ssh is not to ask anything, unless the environment
// says how hosts are reached.
std::vector<std::string> MpirunCommand(const std::string& mpirun, bool root, int ranks,
                                       const std::vector<rank::HostSlots>& hosts,
                                       const std::vector<std::string>& exported,
                                       const std::vector<std::string>& program,
                                       const rank::GetEnv& get_env);

// Names of this process's variables that ranks on other hosts need too.
std::vector<std::string> ExportedVariables(const char* const* environment);

// The path of a program as the shell would find it. UNAVAILABLE if there is none.
absl::StatusOr<std::string> FindProgram(const std::string& name, const rank::GetEnv& get_env);

}  // namespace tandem::launcher
