// One way to add up partial sums that lie in GPUs' memory; device_communicator.h has
// several and takes one for each size.
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
  // Floats of a rank's partial sums together that one call takes at most.
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

  // What has gone wrong so far in what was queued. Does not wait.
  virtual absl::Status Poll() = 0;

  // Gives up what is queued, so that the stream comes to an end if it can. Does not wait.
  virtual void Abort() = 0;

  // Lets go of other ranks' memory once nothing of it is queued: all ranks do before one of them
  // frees its own.
  virtual void Close() {}

  // How long a rank may keep others waiting from now on; zero: for ever. Ways whose waits are
  // their communicator's ignore it.
  virtual void SetTimeout(std::chrono::milliseconds) {}
};

// Through pinned memory of the host and its communicator: works wherever copies do, processes may
// share a GPU. The communicator is used on a thread of CUDA's while the stream runs, and must
// outlive it. UNIMPLEMENTED where ranks of one process share a GPU: the driver may have one such
// thread for all of their streams, and one rank's work waits for the other's. Collective, the same
// error on all ranks.
absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeStagedAllReduce(cudaStream_t stream,
                                                                     Communicator& host,
                                                                     int64_t max_floats);

// One kernel in which ranks write into each other's memory (CUDA IPC), for few tokens: ranks of
// one host whose GPUs reach each other, or one GPU. `timeout` is SetTimeout's first. Collective;
// the same error on all ranks.
absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakePeerAllReduce(
    cudaStream_t stream, ControlGroup& host, std::chrono::milliseconds timeout);

// NCCL's all-reduce, or where `deterministic` its all-gather, then the tree's additions; a GPU
// for each rank. Its start takes no longer than `start_timeout`, nor, until SetTimeout, does what
// it makes ready when a message is the first of its size; its end takes 5 s at most. Collective;
// the same error on all ranks.
absl::StatusOr<std::unique_ptr<DeviceAllReduce>> MakeNcclAllReduce(
    cudaStream_t stream, ControlGroup& host, bool deterministic,
    std::chrono::milliseconds start_timeout);

}  // namespace tandem::parallel
