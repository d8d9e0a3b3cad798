// Why a batch job ends before its rows: a signal, or the time that it has.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "runtime/server/drain_signals.h"

namespace tandem::launcher {

class BatchStop {
 public:
  // `time_limit` in seconds from now; 0: none. In a Slurm job its end counts too. Starts a thread.
  BatchStop(std::unique_ptr<server::DrainSignals> signals, double time_limit);
  ~BatchStop();
  BatchStop(const BatchStop&) = delete;
  BatchStop& operator=(const BatchStop&) = delete;

  // Empty: go on.
  std::string Reason() const;

 private:
  using Clock = std::chrono::steady_clock;
  void EndIn(std::chrono::duration<double> left);

  const std::unique_ptr<server::DrainSignals> signals_;
  std::atomic<int> signal_{0};
  Clock::time_point end_ = Clock::time_point::max();
  std::thread thread_;
};

}  // namespace tandem::launcher
