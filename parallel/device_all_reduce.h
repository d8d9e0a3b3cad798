// One way to add up partial sums in the memory of GPUs. device_communicator.h has several and
// chooses one for each size.
#pragma once

#include <driver_types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace tandem::parallel {

class DeviceAllReduce {
 public:
  virtual ~DeviceAllReduce() = default;
  virtual std::string_view name() const = 0;
  // The most floats of a rank's partial sums together in one call.
  virtual int64_t max_floats() const = 0;

  // As Communicator::PlanReduce. A layout that this way cannot do is an error of Enqueue.
  virtual ReducePlan Plan(const TreeLayout& layout) = 0;

  // Queues Communicator::AllReduce on the stream; what is captured into a graph can be
  // replayed. Pointers are the GPU's.
  virtual absl::Status Enqueue(ReducePlan plan, const float* mine, int64_t count, float* out) = 0;

  // As Communicator::FusedAllReduceAddRmsNorm.
  virtual absl::StatusOr<bool> EnqueueAddRmsNorm(ReducePlan, const float*,
                                                 const kernels::ResidualNorm&) {
    return false;
  }

  // The first error so far of what was queued. Does not wait.
  virtual absl::Status Poll() = 0;

  // Aborts what is queued, so that the stream finishes if it can. Does not wait.
  virtual void Abort() = 0;

  // Releases other ranks' memory, once nothing that uses it is queued. All ranks call it before one
  // of them frees its own memory.
  virtual void Close() {}

  // How long a rank may keep others waiting from now on; zero: no limit. The staged way ignores it:
  // its communicator has limits of its own.
  virtual void SetTimeout(std::chrono::milliseconds) {}
};

// Through pinned memory and a communicator of host memory. Works wherever copies work; processes
// may share a GPU. The communicator must outlive it; a thread of CUDA uses it while the stream
// runs. UNIMPLEMENTED where ranks of one process share a GPU: the driver may have one such thread
// for all their streams, and then one rank's work would wait for the other's. Collective, with the
// same error on all ranks.
absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeStagedAllReduce(cudaStream_t stream,
                                                                     Communicator& host,
                                                                     int64_t max_floats);

// One kernel in which ranks write into each other's memory (CUDA IPC), for few tokens. The ranks
// are on one host, on GPUs that reach each other or on one GPU. `timeout` is as in SetTimeout.
// Collective, with the same error on all ranks.
absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakePeerAllReduce(
    cudaStream_t stream, ControlGroup& host, std::chrono::milliseconds timeout);

// NCCL's all-reduce; if `deterministic`, NCCL's all-gather and then the tree's additions. One GPU
// for each rank. `start_timeout` limits NCCL's start and, until SetTimeout is called, what NCCL
// prepares for the first message of a size. Its end takes 5 s at most. Collective, with the same
// error on all ranks.
absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeNcclAllReduce(
    cudaStream_t stream, ControlGroup& host, bool deterministic,
    std::chrono::milliseconds start_timeout);

}  // namespace tandem::parallel
