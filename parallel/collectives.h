// Which collectives a world uses: shared memory where its ranks are on one host, shared memory and
// MPI over several, MPI alone where memory cannot be shared.
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

// What a world's steps use; destroyed from the last member to the first.
struct Collectives {
  std::unique_ptr<Communicator> all;  // over MPI, for what is not of a step
  std::unique_ptr<ShmHost> host;      // null without shared memory
  std::unique_ptr<Communicator> communicator;
  std::unique_ptr<StepChannel> channel;
  std::string description;  // for the log
  std::string fallback;     // why auto does without shared memory, or empty
};

struct CollectivesOptions {
  CollectivesChoice choice = CollectivesChoice::kAuto;
  Timeouts timeouts;
  ShmOptions shm;
};

// Of a world of two ranks or more, which outlives them; host_of as the world has it. Collective
// over `start`, the world's communicator; all ranks get the same error or the same kind of
// collectives.
absl::StatusOr<Collectives> MakeCollectives(const MpiWorld& world, ControlGroup& start,
                                            std::span<const int> host_of,
                                            const CollectivesOptions& options);

}  // namespace tandem::parallel
