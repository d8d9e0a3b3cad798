// The memory that a rank needs, by purpose. The KV cache is sized from what the plan leaves of the
// free memory (host_limits.h), and a running rank is compared with its plan.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace tandem::plan {

// Bytes on one rank.
struct MemoryPlan {
  uint64_t weights = 0;
  uint64_t embedding = 0;  // its part of the rows, in the host's memory, GPU or not
  uint64_t kv = 0;
  uint64_t workspace = 0;      // scratch of a step
  uint64_t communication = 0;  // buffers of the collectives; on rank 0 the logits too
  uint64_t process = 0;        // the process itself: libraries, MPI, gRPC, tokenizer
  uint64_t preparation = 0;    // of requests until they are tokens; on rank 0 of a server alone
  // Weights that are read anew in each step: from a file, or from the host's memory where the rank
  // computes on a GPU. `present` bytes of them are in memory at once; `weights` includes those.
  uint64_t streamed = 0;
  uint64_t present = 0;
  uint64_t read() const { return weights - present + streamed; }  // of weights, in each step

  // Where the rank computes on a GPU, weights, KV cache and workspace are in the GPU's memory, and
  // these three too.
  bool on_gpu = false;
  uint64_t scratch = 0;      // of kernels, libraries and the driver
  uint64_t graphs = 0;       // recorded steps, at most
  uint64_t collectives = 0;  // those between GPUs
  // In the host's memory, for ranks on GPUs: buffers for copies, and all streamed weights.
  uint64_t pinned = 0;

  uint64_t gpu() const {
    return on_gpu ? weights + kv + workspace + scratch + graphs + collectives : 0;
  }
  uint64_t host() const {
    return communication + process + preparation + embedding + pinned +
           (on_gpu ? 0 : weights + kv + workspace);
  }
  uint64_t total() const { return host() + gpu(); }
};

// Shard weights (parallel::ShardPlan::Make) of ranks with so much memory: in proportion to it, or
// all equal where the memory differs by no more than a tenth, as the free memory of equal hosts
// does.
std::vector<int64_t> ShardWeightsByMemory(std::span<const uint64_t> memory);

// How many ranks use the GPU of `rank`, this rank included. gpus[r] names rank r's GPU and host;
// empty: none.
int RanksOnGpu(std::span<const std::string> gpus, int rank);

}  // namespace tandem::plan
