// Runs a world of ranks from outside and answers for its end. The caller must not have started
// threads, MPI or gRPC: this forks.
//
// Signals to the launcher (SIGTERM, SIGINT, SIGHUP) mean: finish. A world that drains gets SIGUSR1,
// which mpirun forwards to its ranks (its own SIGTERM kills them within a second or two); when it
// is not over within the drain timeout and some seconds, or at a second signal, it is ended by
// force. A world that does not drain is ended at once.
//
// However the launcher ends, by SIGKILL too, no process of the world stays (process_group.h). A
// world runs once; starting it anew after a failure belongs around RunWorld.
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace tandem::launcher {

struct WorldOptions {
  bool through_mpirun = true;  // else argv is the one rank itself
  bool drains = false;
  std::chrono::milliseconds drain_timeout{30'000};
  // Between the end of the drain timeout and force, and between one force and the next.
  std::chrono::milliseconds grace{5'000};
  bool relay_stdout = false;  // to know that it cannot be written (output_relay.h)
  bool pass_stdin = false;    // to the world; never a terminal, which it could not read
};

// argv[0] is a path. stdout and stderr pass through. Returns the exit code: what the world's first
// failing rank ended with (exit_code.h); 0 for a drain, also one that came before the ranks could
// take it; 70 for a drain that had to be forced; 74 where a relayed stdout could not be written,
// which ends the world; 128 + N after signal N to a world that does not
// drain, and where a rank died of signal N. An end that no rank has explained gets one line on
// stderr.
int RunWorld(const std::vector<std::string>& argv, const WorldOptions& options);

}  // namespace tandem::launcher
