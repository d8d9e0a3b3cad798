// The first step of a rank: it joins its world and starts its log.
#pragma once

#include <spdlog/common.h>

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/mpi_world.h"

namespace tandem::rank {

struct JoinOptions {
  spdlog::level::level_enum log_level = spdlog::level::info;  // TANDEM_DEBUG overrides it: debug
  double start_timeout = 0;  // seconds to wait for the other ranks, outside of steps
};

struct JoinedWorld {
  std::unique_ptr<parallel::MpiWorld> world;             // null in a world of one without MPI
  std::unique_ptr<parallel::ControlGroup> communicator;  // all ranks, for start and end

  int rank() const { return communicator->rank(); }
};

// Joins the world that this process was started in (given_world.h). The log goes to stderr: stdout
// belongs to answers. Signals must be blocked before, since threads of MPI inherit the mask. Where
// MPI itself waits longer than start_timeout for another rank, the process ends with kExitInternal.
absl::StatusOr<JoinedWorld> JoinWorld(const JoinOptions& options);

}  // namespace tandem::rank
