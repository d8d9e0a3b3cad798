// What a rank will need, by purpose, and what it has: the KV cache is sized from
// the difference, and serving measures itself against the plan.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::plan {

// Bytes on one rank.
struct MemoryPlan {
  uint64_t weights = 0;
  uint64_t kv = 0;
  uint64_t workspace = 0;      // scratch of a step
  uint64_t communication = 0;  // buffers of the collectives; on rank 0 the logits too
  uint64_t process = 0;        // the process itself: libraries, MPI, gRPC, tokenizer
  // Weights that stay in a file, or in the host's memory while the rank computes on a GPU, and are
  // read in each step; `weights` has the `present` bytes that they take at once where the rank
  // computes.
  uint64_t streamed = 0;
  uint64_t present = 0;
  uint64_t read() const { return weights - present + streamed; }  // of weights, in each step

  // Where the rank computes on a GPU, weights, KV cache and workspace are of the GPU, and so
  // are
  bool on_gpu = false;
  uint64_t scratch = 0;      // of kernels, libraries and the driver
  uint64_t graphs = 0;       // recorded steps, at most
  uint64_t collectives = 0;  // those between GPUs
  // while this is of the host: for copies, and all that is streamed.
  uint64_t pinned = 0;

  uint64_t gpu() const {
    return on_gpu ? weights + kv + workspace + scratch + graphs + collectives : 0;
  }
  uint64_t host() const {
    return communication + process + pinned + (on_gpu ? 0 : weights + kv + workspace);
  }
  uint64_t total() const { return host() + gpu(); }
};

// Weights by which ranks that have so much memory share a model (parallel::ShardPlan): in
// proportion, or all alike where they differ by no more than a tenth, as the free memory of equal
// hosts does.
std::vector<int64_t> SharesByMemory(std::span<const uint64_t> memory);

// How many ranks have the GPU of `rank`, itself among them. GPUs[r] names rank r's, and its
// host; empty: none.
int RanksOnGpu(std::span<const std::string> gpus, int rank);

// Memory that this process holds by itself, in bytes: anonymous and shared
// pages, not the mapped files' (the kernel may drop those).
uint64_t ResidentBytes();
// Pages of mapped files that are present in this process, in bytes.
uint64_t PresentFileBytes();
// ResidentBytes() of another process of this host; 0 where it is not to be seen.
uint64_t ResidentBytes(int64_t pid);

// The largest ResidentBytes() seen at any Sample().
class PeakMemory {
 public:
  void Sample();
  uint64_t bytes() const { return peak_; }

 private:
  uint64_t peak_ = 0;
};

// Memory that may still be taken on this host: the system's available memory or
// what the control group's limit leaves, whichever is less. `root` stands before
// /proc and /sys, for tests.
uint64_t AvailableMemory(const std::string& root = "");

// CPUs that this process may use at once: its affinity mask, capped by the
// control group's quota. At least 1.
int AvailableCpus(const std::string& root = "");

}  // namespace tandem::plan
