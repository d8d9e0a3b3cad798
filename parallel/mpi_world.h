// MPI for the life of a process.
//
// Calls may come from different threads, one at a time (MPI_THREAD_SERIALIZED):
// the main thread while loading, the engine's thread while serving.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"

namespace tandem::parallel {

class MpiWorld {
 public:
  // Initialises MPI. Once a process, before threads of gRPC exist.
  static absl::StatusOr<std::unique_ptr<MpiWorld>> Start();

  // Finalises: all ranks must get here. Not called after Abort.
  ~MpiWorld();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // By rank, the number of its host; hosts are numbered by their lowest ranks.
  const std::vector<int>& host_of() const { return host_of_; }
  int local_size() const;  // ranks on this host

  // All ranks, over MPI, without deadlines: for start and end.
  std::unique_ptr<Communicator> MakeCommunicator() const;

  // Ends all ranks at once with this exit code. Does not return.
  [[noreturn]] void Abort(int exit_code);

 private:
  MpiWorld() = default;
  int rank_ = 0;
  int size_ = 1;
  std::vector<int> host_of_;
};

}  // namespace tandem::parallel
