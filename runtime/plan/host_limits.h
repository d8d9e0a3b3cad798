// What this host lets a process take: memory and CPUs, control groups included, and what a process
// holds of it.
#pragma once

#include <cstdint>
#include <string>

namespace tandem::plan {

// Memory that this process holds itself, in bytes: anonymous and shared pages. Pages of mapped
// files do not count, since the kernel may drop them.
uint64_t ResidentBytes();
// ResidentBytes() of another process of this host; 0 where it cannot be read.
uint64_t ResidentBytes(int64_t pid);

// The largest ResidentBytes() seen at any Sample().
class PeakMemory {
 public:
  void Sample();
  uint64_t bytes() const { return peak_; }

 private:
  uint64_t peak_ = 0;
};

// Bytes of memory that may still be taken on this host: the system's available memory, or what the
// control group's limit leaves, whichever is less. `root` is put before /proc and /sys, for tests.
uint64_t AvailableMemory(const std::string& root = "");

// CPUs that this process may use at once: those of its affinity mask, limited by the control
// group's quota. At least 1. `root` as above.
int AvailableCpus(const std::string& root = "");

}  // namespace tandem::plan
