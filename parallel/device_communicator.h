// The communicator of ranks whose activations are in the memory of GPUs. All-reduces are queued on
// the backend's stream: a step waits once, in GatherColumns, and can be captured into a graph.
// Everything else goes over a communicator of host memory.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/all_reduce_trial.h"
#include "parallel/communicator.h"

struct CUstream_st;  // what a cudaStream_t points to

namespace tandem::parallel {

struct DeviceCommunicatorOptions {
  CUstream_st* stream = nullptr;  // a cudaStream_t: the backend's (kernels::CudaBackend)
  int64_t max_floats = 0;    // partial sums of a rank in one all-reduce: [nodes, tokens, hidden]
  int64_t max_gathered = 0;  // floats of a rank in one GatherColumns: [rows, width]
  // How long a rank may keep others waiting; zero: no limit.
  std::chrono::milliseconds step_timeout{0};
  // For NCCL's start. With eight GPUs whose kernels are loaded for the first time it took 55 s.
  std::chrono::milliseconds nccl_start_timeout{120000};
  // Every way adds along the tree, so bits do not depend on the choice. Otherwise NCCL adds in its
  // own order.
  bool deterministic = false;
  // Or staged, nccl, peer: this one wherever it works; it is tested as well.
  std::string way = "auto";
};

// Tests all ways with messages of the world's sizes and chooses for each size the fastest way whose
// sums are right. Adds the results to `trials`, unless it is null. A broken way shows by wrong sums
// or at a deadline, and is left out. `host` must outlive the communicator; in a step nothing else
// may use it, since a thread of CUDA may. Collective, with the same error on all ranks. UNAVAILABLE
// in builds without CUDA, and where no way works.
absl::StatusOr<std::unique_ptr<Communicator>> MakeDeviceCommunicator(
    Communicator& host, const DeviceCommunicatorOptions& options,
    std::vector<AllReduceTrial>* trials = nullptr);

}  // namespace tandem::parallel
