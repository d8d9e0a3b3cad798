// MPI for the life of a process.
//
// Calls may come from different threads, one at a time (MPI_THREAD_SERIALIZED):
// the main thread while loading, the engine's thread while serving.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/control_group.h"

namespace tandem::parallel {

struct MpiGroup;

class MpiWorld {
 public:
  // Ends the process, on a thread of its own.
  using GiveUp = std::function<void(const absl::Status&)>;

  // Initialises MPI. Once a process, before threads of gRPC exist. `patience` is for ranks that
  // keep this one waiting outside of steps; zero: for ever. Where MPI itself waits, at its start
  // and its end, `give_up` is called then.
  static absl::StatusOr<std::unique_ptr<MpiWorld>> Start(
      std::chrono::milliseconds patience = std::chrono::milliseconds(0), GiveUp give_up = {});

  // Cuts this world, which outlives its parts: ranks with the same part_of (by rank) make a world,
  // in their order here. Collective, and so are the ends of the parts.
  std::unique_ptr<MpiWorld> Split(const std::vector<int>& part_of) const;

  // Finalises, or ends the part: all its ranks must get here. Not called after Abort.
  ~MpiWorld();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // By rank, the number of its host; hosts are numbered by their lowest ranks.
  const std::vector<int>& host_of() const { return host_of_; }
  int local_size() const;  // ranks on this host

  // All ranks, with this world's patience for every call: for start and end.
  std::unique_ptr<ControlGroup> MakeControlGroup() const;

  // From now on, also for AllGatherBytes of groups made before; not for MPI's own end.
  void SetPatience(std::chrono::milliseconds patience);

  const MpiGroup& group() const { return *group_; }

  // Ends all ranks of MPI at once, of other parts too, with this exit code. Does not return.
  [[noreturn]] void Abort(int exit_code);

 private:
  MpiWorld();
  std::unique_ptr<MpiGroup> group_;
  std::chrono::milliseconds limit_{0};  // of MPI's own waits
  GiveUp give_up_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<int> host_of_;
};

}  // namespace tandem::parallel
