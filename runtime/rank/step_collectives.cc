#include "runtime/rank/step_collectives.h"

#include <spdlog/spdlog.h>

#include <string>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_backend.h"
#include "parallel/all_reduce_trial.h"
#include "parallel/device_communicator.h"
#include "parallel/timed_communicator.h"
#include "runtime/plan/rank_bytes.h"

namespace tandem::rank {
namespace {

void LogTrials(const std::vector<parallel::AllReduceTrial>& trials) {
  for (const parallel::AllReduceTrial& trial : trials) {
    if (trial.status.ok()) {
      spdlog::debug("all-reduce between GPUs, {} of {} KiB: {:.1f} us", trial.way,
                    trial.count * sizeof(float) / 1024, trial.microseconds);
    } else {
      spdlog::warn("all-reduce between GPUs: does not use {}: {}", trial.way,
                   std::string(trial.status.message()));
    }
  }
}

}  // namespace

absl::StatusOr<StepCollectives> MakeStepCollectives(const parallel::MpiWorld* world,
                                                    parallel::ControlGroup& start,
                                                    const RankOptions& options, bool own_cores) {
  StepCollectives made;
  made.control = &start;
  if (start.size() == 1) {
    made.host.communicator = std::make_unique<parallel::SelfCommunicator>();
  } else {
    TANDEM_ASSIGN_OR_RETURN(made.host, parallel::MakeCollectives(*world, start, world->host_of(),
                                                                 {.choice = options.collectives,
                                                                  .timeouts = options.timeouts,
                                                                  .shm = {.spin = own_cores}}));
    made.control = &made.host.communicator->control();
  }
  made.untimed = made.host.communicator.get();
  if (options.timer != nullptr) {
    made.host.communicator = std::make_unique<parallel::TimedCommunicator>(
        std::move(made.host.communicator), options.timer);
  }
  if (start.rank() == 0 && !made.host.fallback.empty()) {
    spdlog::warn("collectives over MPI alone: {}", made.host.fallback);
  }
  return made;
}

absl::StatusOr<std::unique_ptr<parallel::Communicator>> MakeGpuCollectives(
    const StepCollectives& host, const kernels::Backend& backend, const parallel::ShardPlan& shards,
    const model::DecoderOptions& decoder, const RankOptions& options) {
  if (backend.memory_is_host()) return nullptr;
  const plan::DeviceMessages messages =
      plan::DeviceMessagesOf(shards, decoder, backend.KeepsLeafTree());
  std::vector<parallel::AllReduceTrial> trials;
  // Untimed: a CUDA stream calls `host` from a thread of its own, and the timer is this thread's.
  TANDEM_ASSIGN_OR_RETURN(auto made, parallel::MakeDeviceCommunicator(
                                         *host.untimed,
                                         {.stream = kernels::CudaBackend::Of(backend).stream(),
                                          .max_floats = messages.max_floats,
                                          .max_gathered = messages.max_gathered,
                                          .step_timeout = options.timeouts.step,
                                          .deterministic = options.deterministic,
                                          .way = options.gpu_collectives},
                                         &trials));
  if (host.control->rank() == 0) LogTrials(trials);
  return made;
}

}  // namespace tandem::rank
