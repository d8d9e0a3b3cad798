// Why a batch job stops before all rows are finished: a signal, or its time limit.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "runtime/server/drain_signals.h"

namespace tandem::batch {

class BatchStop {
 public:
  // `time_limit` in seconds from now; 0: none. The end of a Slurm job counts, too. Starts a thread.
  // With `leaves_early` a signal before RowsBegin ends this process at once, with kExitRequeue: it
  // has done nothing yet, and loading a model takes long.
  BatchStop(std::unique_ptr<server::DrainSignals> signals, double time_limit, bool leaves_early);
  ~BatchStop();
  BatchStop(const BatchStop&) = delete;
  BatchStop& operator=(const BatchStop&) = delete;

  // The model is loaded.
  void RowsBegin() { rows_begun_ = true; }

  // Empty: continue.
  std::string Reason() const;

 private:
  using Clock = std::chrono::steady_clock;
  void EndIn(std::chrono::duration<double> left);

  const std::unique_ptr<server::DrainSignals> signals_;
  std::atomic<int> signal_{0};
  std::atomic<bool> rows_begun_{false};
  Clock::time_point end_ = Clock::time_point::max();
  std::thread thread_;
};

}  // namespace tandem::batch
