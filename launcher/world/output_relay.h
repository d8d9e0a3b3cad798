// Passes a child's output on to the launcher's own. For stdout: mpirun drops output of the ranks
// that it cannot write and exits with 0, so an answer could be lost on a full disk without an
// error. For stderr: to read mpirun's notices (notice_filter.h).
#pragma once

#include <atomic>
#include <thread>

#include "absl/status/status.h"
#include "launcher/world/notice_filter.h"

namespace tandem::launcher {

class OutputRelay {
 public:
  // For `descriptor`, STDOUT_FILENO or STDERR_FILENO. The filter may be null. It outlives the
  // relay, which alone uses it until Finish.
  explicit OutputRelay(int descriptor, NoticeFilter* filter = nullptr)
      : descriptor_(descriptor), filter_(filter) {}
  OutputRelay(const OutputRelay&) = delete;
  OutputRelay& operator=(const OutputRelay&) = delete;
  ~OutputRelay();

  // Before the fork: makes the pipe.
  absl::Status Open();
  // In the child: makes the descriptor the pipe's.
  void Become() const;
  // In the parent, after the fork: starts a thread that copies. If the descriptor cannot be
  // written, the rest is discarded and this process gets a SIGCHLD, which wakes its wait for
  // children.
  void Start();
  bool failed() const { return failed_; }
  // After the child and all that it started have ended: waits until the last byte is copied.
  void Finish();
  // Before Finish: what is in the pipe now is the last, although a process may hold it open.
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
