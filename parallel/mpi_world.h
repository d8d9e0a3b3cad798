// MPI for the life of a process, and the communicator over it.
//
// Calls may come from different threads, one at a time (MPI_THREAD_SERIALIZED):
// the main thread while loading, the engine's thread while serving.
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/step_channel.h"

namespace tandem::parallel {

// How long a rank waits for another before it gives the world up. Zero: for ever.
struct MpiTimeouts {
  std::chrono::milliseconds step{0};     // within a step, for any rank
  std::chrono::milliseconds silence{0};  // between steps, for rank 0's next plan
};

class MpiWorld {
 public:
  // Initialises MPI. Once a process, before threads of gRPC exist.
  static absl::StatusOr<std::unique_ptr<MpiWorld>> Start();

  // Finalises: all ranks must get here. Not called after Abort.
  ~MpiWorld();

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_size() const { return local_size_; }  // ranks on this host

  std::unique_ptr<Communicator> MakeCommunicator(const MpiTimeouts& timeouts = {});
  std::unique_ptr<StepChannel> MakeStepChannel(const MpiTimeouts& timeouts = {});

  // Ends all ranks at once with this exit code. Does not return.
  [[noreturn]] void Abort(int exit_code);

 private:
  MpiWorld() = default;
  int rank_ = 0;
  int size_ = 1;
  int local_size_ = 1;
};

}  // namespace tandem::parallel
