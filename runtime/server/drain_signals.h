// The signals that ask a server to finish: SIGUSR1 (which mpirun forwards to its ranks; its own
// SIGTERM kills them within a second or two), SIGTERM and SIGINT. They are blocked and read from a
// descriptor, so no code runs in a handler.
#pragma once

#include <memory>

#include "absl/status/statusor.h"

namespace tandem::server {

class DrainSignals {
 public:
  // Blocks the signals in the calling thread. Call it before any other thread starts, also those of
  // MPI and gRPC: threads inherit the mask, and the system may deliver a signal to any thread that
  // does not block it.
  static absl::StatusOr<std::unique_ptr<DrainSignals>> Block();

  // The mask stays: a signal that comes late must not kill the process on its way out.
  ~DrainSignals();
  DrainSignals(const DrainSignals&) = delete;
  DrainSignals& operator=(const DrainSignals&) = delete;

  // The next signal's number, or 0 after Wake. One thread at a time.
  int Wait();

  // Makes Wait return 0, now and from then on. Any thread.
  void Wake();

 private:
  DrainSignals(int signal_fd, int wake_fd) : signal_fd_(signal_fd), wake_fd_(wake_fd) {}
  const int signal_fd_;
  const int wake_fd_;
};

// Ends this process by SIGUSR1, as that signal would have before Block.
[[noreturn]] void DieOfDrainSignal();

// For ranks other than rank 0: a signal to the whole world is meant for the front on rank 0, which
// ends the other ranks when its streams are done.
void IgnoreDrainSignals();

}  // namespace tandem::server
