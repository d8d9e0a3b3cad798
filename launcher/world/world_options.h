// How a world of ranks is supervised (supervisor.h).
#pragma once

#include <chrono>

namespace tandem::launcher {

struct WorldOptions {
  bool through_mpirun = true;  // otherwise argv is the only rank itself
  bool drains = false;
  std::chrono::milliseconds drain_timeout{30'000};
  // A job that the same command line resumes. It ends with 75 after a drain that was forced or came
  // before the ranks could take it, and with 70 where a rank died, whatever killed it.
  bool resumable = false;
  // Between the end of the drain timeout and SIGTERM, and between SIGTERM and SIGKILL.
  std::chrono::milliseconds grace{5'000};
  // How long mpirun may take to end the world after a rank of this host died.
  std::chrono::milliseconds lost_grace{20'000};
  bool relay_stdout = false;  // to find out that it cannot be written (output_relay.h)
  bool pass_stdin = false;    // to the world; never a terminal, which the world could not read

  int max_restarts = 0;  // in a row, of worlds that failed within stable_after of their start
  std::chrono::milliseconds stable_after{60'000};
  std::chrono::milliseconds first_pause{1'000};  // doubles
  std::chrono::milliseconds longest_pause{30'000};
};

}  // namespace tandem::launcher
