// Chooses the collectives of a world: shared memory if its ranks are on one host, shared memory and
// MPI if they are on several hosts, only MPI if memory cannot be shared.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/mpi_world.h"
#include "parallel/shm_host.h"
#include "parallel/step_channel.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {

enum class CollectivesChoice { kAuto, kShm, kMpi };

// What a world's steps use. Members are destroyed from the last to the first.
struct Collectives {
  std::unique_ptr<Communicator> all;  // over MPI, for exchanges outside of steps
  std::unique_ptr<ShmHost> host;      // null without shared memory
  std::unique_ptr<Communicator> communicator;
  std::unique_ptr<StepChannel> channel;
  std::string description;  // for the log
  std::string fallback;     // why `auto` does not use shared memory, or empty
};

struct CollectivesOptions {
  CollectivesChoice choice = CollectivesChoice::kAuto;
  Timeouts timeouts;
  ShmOptions shm;
};

// For a world of two or more ranks. The world outlives the collectives; host_of is as in MpiWorld.
// Collective over `start`, the world's control group; all ranks get the same error or the same kind
// of collectives.
absl::StatusOr<Collectives> MakeCollectives(const MpiWorld& world, ControlGroup& start,
                                            std::span<const int> host_of,
                                            const CollectivesOptions& options);

}  // namespace tandem::parallel
