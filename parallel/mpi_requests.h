// Point-to-point messages of MPI with a deadline. For the sources that call MPI.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/mpi_group.h"

namespace tandem::parallel {

// What a message is for. Messages of one tag and pair of ranks keep their order.
enum MpiTag : int {
  kTreeTag = 1,
  kStepTag = 2,
  kSliceTag = 3,
  kGatherTag = 4,
  kBarrierTag = 5,
  kBytesTag = 6,
};

// What to do between two looks at something that MPI has no sleeping wait for: yields at first,
// then sleeps, twice as long each time.
class Backoff {
 public:
  std::chrono::steady_clock::duration waited() const {
    return std::chrono::steady_clock::now() - start_;
  }
  void Pause(std::chrono::microseconds longest);

 private:
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::chrono::microseconds pause_{20};
};

// Messages in flight between members of a group, each with the member at its other end.
class MpiRequests {
 public:
  // members: ranks of the group in ascending order, world_rank, the caller's, among them. The
  // group outlives the requests. timeout: of Wait; zero: none.
  MpiRequests(const MpiGroup& group, std::vector<int> members, int world_rank,
              std::chrono::milliseconds timeout);

  MPI_Comm communicator() const { return group_.communicator; }
  int size() const { return static_cast<int>(members_.size()); }
  int rank() const;
  int world_rank(int member) const { return members_[member]; }

  void Clear();
  void Receive(void* to, int64_t count, MPI_Datatype type, int peer, int tag);
  void Send(const void* from, int64_t count, MPI_Datatype type, int peer, int tag);

  // Waits until all are done. UNAVAILABLE after the timeout, naming a rank that is late.
  absl::Status Wait(const char* what);
  // The same outside of steps, with the group's patience: DEADLINE_EXCEEDED.
  absl::Status WaitOutsideOfSteps(const char* what);

 private:
  // A rank that is late; -1: all are done.
  absl::StatusOr<int> Await(std::chrono::milliseconds timeout,
                            std::chrono::microseconds longest_pause, const char* what);
  absl::StatusOr<int> Late(const char* what) const;

  const MpiGroup& group_;
  const std::vector<int> members_;
  const int world_rank_;
  const std::chrono::milliseconds timeout_;
  std::vector<MPI_Request> requests_;
  std::vector<int> peers_;
};

}  // namespace tandem::parallel
