// Looks up in /proc which ranks an mpirun has on this host: whether they have started, and whether
// one has died. A look costs a few small reads.
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
  // When to look again: soon while ranks are starting, later every few seconds.
  Clock::time_point next_look() const { return next_look_; }

  bool any_seen() const { return started_ > 0; }
  // How long a rank that was started here has been missing. Zero: all ranks live, or none was seen.
  Clock::duration missing_for() const;

 private:
  const pid_t mpirun_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point next_look_ = start_;
  int started_ = 0;  // ranks on this host, from the environment that mpirun gives them
  std::optional<Clock::time_point> missing_since_;
};

}  // namespace tandem::launcher
