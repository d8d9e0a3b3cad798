// Passes a child's output on to ours: stdout because mpirun, which has the ranks' output, drops
// what it cannot write and ends well, so that an answer would be lost on a full disk without a
// word; stderr to read mpirun's notices (notice_filter.h).
#pragma once

#include <atomic>
#include <thread>

#include "absl/status/status.h"
#include "launcher/world/notice_filter.h"

namespace tandem::launcher {

class OutputRelay {
 public:
  // Stands for `descriptor`, STDOUT_FILENO or STDERR_FILENO. The filter may be null, else outlives
  // the relay and is ours until Finish.
  explicit OutputRelay(int descriptor, NoticeFilter* filter = nullptr)
      : descriptor_(descriptor), filter_(filter) {}
  OutputRelay(const OutputRelay&) = delete;
  OutputRelay& operator=(const OutputRelay&) = delete;
  ~OutputRelay();

  // Before the fork: makes the pipe.
  absl::Status Open();
  // In the child: the pipe takes the descriptor's place.
  void Become() const;
  // In the parent, after the fork: starts to copy, on a thread. When ours cannot be written the
  // rest is discarded, and this process gets SIGCHLD, for whoever waits for its children.
  void Start();
  bool failed() const { return failed_; }
  // After the child and all that it started: when the last byte is copied.
  void Finish();
  // Before Finish: what is in the pipe is the last, though somebody may hold it open.
  void Abandon();

 private:
  void Copy();
  void Pass(const char* data, size_t size);

  const int descriptor_;
  NoticeFilter* const filter_;
  int read_end_ = -1;
  int write_end_ = -1;
  int abandoned_ = -1;  // an eventfd
  std::atomic<bool> failed_{false};
  std::thread thread_;
};

}  // namespace tandem::launcher
