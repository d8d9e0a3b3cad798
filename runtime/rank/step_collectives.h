// The sixth step of a rank: what the ranks' steps exchange over.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "parallel/collectives.h"
#include "parallel/communicator.h"
#include "parallel/control_group.h"
#include "parallel/mpi_world.h"
#include "parallel/shard_plan.h"
#include "runtime/model/decoder.h"
#include "runtime/rank/options.h"

namespace tandem::rank {

struct StepCollectives {
  parallel::Collectives host;                 // communicator: timed, where there is a timer
  parallel::Communicator* untimed = nullptr;  // host.communicator without the timer
  parallel::ControlGroup* control = nullptr;  // the ranks outside of steps
};

// Collective. `start` is the control group of the world's start and outlives the result; `world` is
// null in a world of one. own_cores: waiting threads may spin.
absl::StatusOr<StepCollectives> MakeStepCollectives(const parallel::MpiWorld* world,
                                                    parallel::ControlGroup& start,
                                                    const RankOptions& options, bool own_cores);

// Collective. The communicator of steps on GPUs; null where the backend's memory is the host's. It
// uses `host` and the backend, which outlive it.
absl::StatusOr<std::unique_ptr<parallel::Communicator>> MakeGpuCollectives(
    const StepCollectives& host, const kernels::Backend& backend, const parallel::ShardPlan& shards,
    const model::DecoderOptions& decoder, const RankOptions& options);

}  // namespace tandem::rank
