// Runs a world of ranks from outside and answers for its end. The caller must not have started
// threads, MPI or gRPC: this forks.
//
// Signals to the launcher (SIGTERM, SIGINT, SIGHUP, SIGUSR1) mean: finish. A world that drains gets
// SIGUSR1, which mpirun forwards to its ranks (its own SIGTERM kills them within a second or two);
// when it is not over within the drain timeout and some seconds, or at a second signal, it is ended
// by force. A world that does not drain is ended at once.
//
// mpirun ends a world that has lost a rank, and where it hangs itself we do: it gets lost_grace
// from the moment that a rank of this host is gone.
//
// A world that loses a rank, or that ends itself because one stalls, is started again after a
// pause that doubles, as often as allowed. An end that a new world would meet too (a bad model, a
// port in use) is final.
//
// However the launcher ends, by SIGKILL too, no process of the world stays (process_group.h).
#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace tandem::launcher {

struct WorldOptions {
  bool through_mpirun = true;  // else argv is the one rank itself
  bool drains = false;
  std::chrono::milliseconds drain_timeout{30'000};
  // A job that the same command line goes on with: 75 for a drain, forced or too early, and 70
  // where a rank was lost, whatever it died of.
  bool resumable = false;
  // Between the end of the drain timeout and force, and between one force and the next.
  std::chrono::milliseconds grace{5'000};
  std::chrono::milliseconds lost_grace{20'000};
  bool relay_stdout = false;  // to know that it cannot be written (output_relay.h)
  bool pass_stdin = false;    // to the world; never a terminal, which it could not read

  int max_restarts = 0;  // in a row, of worlds that failed within stable_after of their start
  std::chrono::milliseconds stable_after{60'000};
  std::chrono::milliseconds first_pause{1'000};  // doubles
  std::chrono::milliseconds longest_pause{30'000};
};

// argv[0] is a path. stdout and stderr pass through, but for mpirun's notices of a world's end
// (notice_filter.h). Returns the exit code: what the world's first
// failing rank ended with (exit_code.h); 0 for a drain, and for one that came before the ranks
// could take it; 70 for a drain that had to be forced, for worlds that keep failing and where
// mpirun hung; 74 where a relayed stdout could not be written, which ends the world; 128 + N after
// signal N to a world that does not drain, and where a rank died of signal N and no new world is
// allowed. An end that no rank has explained gets one line on stderr, which names rank, host and
// signal where mpirun tells them.
int RunWorld(const std::vector<std::string>& argv, const WorldOptions& options);

}  // namespace tandem::launcher
