// The communicator of ranks whose activations lie in GPUs' memory. All-reduces are queued on
// the backend's stream, so that a step has one wait, in GatherColumns, and they can be captured
// into a graph. Everything else goes over a communicator of the host's memory.
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
  std::chrono::milliseconds step_timeout{0};  // that a rank may keep others waiting; zero: for ever
  // That NCCL may take to start. Eight GPUs whose kernels load for the first time took it 55 s.
  std::chrono::milliseconds nccl_start_timeout{120000};
  // The sums of every way are those of the tree, whichever is taken for a size. Otherwise NCCL
  // adds in its own order.
  bool deterministic = false;
  std::string way =
      "auto";  // staged, nccl, peer: that one where it can; sums are tried all the same
};

// Tries the ways that there are for messages of the world's sizes, and takes for each size the
// fastest of those whose sums are right; what they did is added to `trials`, where not null. A way
// that is broken is found by its sums or a deadline, and left out. `host` must outlive the
// communicator; in a step it is used by that alone, maybe on a thread of CUDA's. Collective, the
// same error on all ranks. UNAVAILABLE in builds without CUDA, and where no way works.
absl::StatusOr<std::unique_ptr<Communicator>> MakeDeviceCommunicator(
    Communicator& host, const DeviceCommunicatorOptions& options,
    std::vector<AllReduceTrial>* trials = nullptr);

}  // namespace tandem::parallel
