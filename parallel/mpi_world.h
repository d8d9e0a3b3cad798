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

  // Initialises MPI, once in a process, before gRPC has threads. `patience` is how long other ranks
  // may keep this one waiting outside of steps; zero: no limit. If MPI itself waits longer, at its
  // start or its end, `give_up` is called.
  static absl::StatusOr<std::unique_ptr<MpiWorld>> Start(
      std::chrono::milliseconds patience = std::chrono::milliseconds(0), GiveUp give_up = {});

  // Splits this world: ranks with the same part_of[rank] make a world, in their order here. This
  // world outlives its parts. Collective, and so are the destructors of the parts.
  std::unique_ptr<MpiWorld> Split(const std::vector<int>& part_of) const;

  // Finalises MPI, or ends the part. Collective. Not called after Abort.
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

  // Ends all ranks that MPI started at once, also those of other parts, with this exit code.
  [[noreturn]] void Abort(int exit_code);

 private:
  MpiWorld();
  std::unique_ptr<MpiGroup> group_;
  std::chrono::milliseconds limit_{0};  // for MPI's own waits
  GiveUp give_up_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<int> host_of_;
};

}  // namespace tandem::parallel
