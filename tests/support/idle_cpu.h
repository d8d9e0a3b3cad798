// What a process that should sleep takes of the CPU.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace tandem::testing {

// Seconds of CPU time of this process in `interval`: the least of three, since a busy machine may
// put off a thread's way to sleep.
inline double IdleCpuSeconds(std::chrono::milliseconds interval) {
  const auto cpu = [] {
    timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
  };
  double least = 1e9;
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(interval / 10);
    const double before = cpu();
    std::this_thread::sleep_for(interval);
    least = std::min(least, cpu() - before);
  }
  return least;
}

}  // namespace tandem::testing
