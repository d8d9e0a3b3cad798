// Runs a world of ranks from outside and reports its end. The caller must not have started threads,
// MPI or gRPC: this forks.
//
// A signal to the launcher (SIGTERM, SIGINT, SIGHUP, SIGUSR1) asks it to finish. A world that
// drains gets SIGUSR1, which mpirun forwards to its ranks (mpirun's own SIGTERM would kill them
// within a second or two). If the world is not over within the drain timeout and some seconds, or
// at a second signal, it is ended by force. A world that does not drain is ended at once.
//
// When a rank dies, mpirun ends the world. If mpirun hangs, the launcher ends the world itself:
// lost_grace after the rank of this host died.
//
// A world in which a rank died, or that ended itself because a rank stalled, is started again after
// a pause that doubles, as often as allowed. Failures that a restart cannot fix (a bad model, a
// port in use) are final.
//
// However the launcher ends, also by SIGKILL, no process of the world stays
// (runtime/rank/parent_process.h).
#pragma once

#include <string>
#include <vector>

#include "launcher/world/world_options.h"

namespace tandem::launcher {

// argv[0] is a path. stdout and stderr pass through, except mpirun's notices of a world's end
// (notice_filter.h). Returns the exit code:
//   what the world's first failing rank ended with (exit_code.h);
//   0 for a drain, also for one that came before the ranks could take it;
//   70 for a drain that had to be forced, for worlds that keep failing, and where mpirun hung;
//   74 where a relayed stdout could not be written, which ends the world;
//   128 + N after signal N to a world that does not drain, and where a rank died of signal N and no
//   new world is allowed.
// An end that no rank has explained gets one line on stderr. It names rank, host and signal where
// mpirun reports them.
int RunWorld(const std::vector<std::string>& argv, const WorldOptions& options);

}  // namespace tandem::launcher
