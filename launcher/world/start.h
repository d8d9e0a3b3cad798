// From a command that runs a model to its ranks: is this process a rank of a world that mpirun or
// srun has started? Otherwise, how many ranks are to be started, and where?
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/world/supervisor.h"
#include "runtime/rank/given_world.h"

namespace tandem::launcher {

struct StartOptions {
  int tp = 0;         // --tp: the number of ranks; 0: one for each slot of `hosts` or each socket
  std::string hosts;  // --hosts, as rank::ParseHosts reads it; empty: this host
  // A world of one rank on this host runs in this process, without supervision.
  bool alone_in_process = true;
  WorldOptions world;  // through_mpirun is set here
};

// Calls `rank` in this process if it is a rank, or the only one. Otherwise starts the world: this
// program with the arguments of argv, once for each rank, through mpirun where there is more than
// one rank or a host list. Returns the exit code of the command. The caller must not have started
// threads, MPI or gRPC.
absl::StatusOr<int> RunRankOrWorld(const StartOptions& options, char** argv,
                                   const std::function<absl::StatusOr<int>()>& rank);

// Whether this process is rank 0 of a world that mpirun or srun has started, or in none: what all
// ranks find, it alone reports.
bool IsFirstRank(const rank::GetEnv& get_env);

}  // namespace tandem::launcher
