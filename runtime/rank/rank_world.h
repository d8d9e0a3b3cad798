// A rank's place in its world: how the commands that run a model join it, and how they end.
#pragma once

#include <spdlog/common.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/mpi_world.h"
#include "runtime/engine/memory_watch.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/step_trace.h"

namespace tandem::rank {

struct StartedRank {
  std::unique_ptr<parallel::MpiWorld> world;  // null in a world of one without MPI
  std::unique_ptr<parallel::Communicator> communicator;
};

// Joins the world that this process was started in, and starts the log, which goes to stderr:
// stdout belongs to answers. Before any thread that is to have other signals blocked. Where another
// rank does not come within start_timeout seconds, ends this one with kExitInternal.
absl::StatusOr<StartedRank> StartRank(spdlog::level::level_enum log_level, double start_timeout);

// Collective. Null where `file` is empty.
absl::StatusOr<std::unique_ptr<StepTrace>> StartTrace(parallel::Communicator& communicator,
                                                      const std::string& file);

// An error that all ranks have agreed on: rank 0 says it, all end with its code. DEADLINE_EXCEEDED
// is none: a rank did not come to agree, and the world is lost.
int AgreedError(parallel::MpiWorld* world, const absl::Status& status);

// An error of this rank alone, others may be waiting for it: the world ends.
int LoneError(parallel::MpiWorld* world, const absl::Status& status);

// Whether a step's status says that a rank is gone or does not answer.
bool LostRank(const parallel::MpiWorld* world, const absl::Status& status);

// The world has lost a rank, or one does not answer: whoever finds it out ends all, with the code
// that makes the launcher start a new world.
int LostWorld(parallel::MpiWorld* world, const absl::Status& status);

// To the log: alarms as errors, warnings and what costs work as warnings.
void LogWatchAction(const engine::WatchAction& action);

}  // namespace tandem::rank
