// The ranks that an mpirun has on this host, as /proc shows them: whether they are there yet, and
// whether one has gone. A look costs a few small reads.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>

namespace tandem::launcher {

class LocalRanks {
 public:
  using Clock = std::chrono::steady_clock;

  explicit LocalRanks(pid_t mpirun) : mpirun_(mpirun) {}

  void Look();
  // When to look again: soon in a young world, where ranks come, later every few seconds.
  Clock::time_point next_look() const { return next_look_; }

  bool any_seen() const { return started_ > 0; }
  // How long ranks that were started here have been missing; zero: all are there, or none was seen.
  Clock::duration missing_for() const;

 private:
  const pid_t mpirun_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_look_ = start_;
  int started_ = 0;  // on this host, as mpirun tells each of them
  std::optional<Clock::time_point> missing_since_;
};

}  // namespace tandem::launcher
