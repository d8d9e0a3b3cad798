// Passes a child's stdout on to ours. mpirun, which has the ranks' output, drops what it cannot
// write and ends well: an answer would be lost on a full disk without a word.
#pragma once

#include <atomic>
#include <thread>

#include "absl/status/status.h"

namespace tandem::launcher {

class OutputRelay {
 public:
  OutputRelay() = default;
  OutputRelay(const OutputRelay&) = delete;
  OutputRelay& operator=(const OutputRelay&) = delete;
  ~OutputRelay();

  // Before the fork: makes the pipe.
  absl::Status Open();
  // In the child: the pipe becomes its stdout.
  void BecomeStdout() const;
  // In the parent, after the fork: starts to copy, on a thread. When ours cannot be written the
  // rest is discarded, and this process gets SIGCHLD, for whoever waits for its children.
  void Start();
  bool failed() const { return failed_; }
  // After the child and all that it started: when the last byte is copied.
  void Finish();

 private:
  void Copy();

  int read_end_ = -1;
  int write_end_ = -1;
  std::atomic<bool> failed_{false};
  std::thread thread_;
};

}  // namespace tandem::launcher
