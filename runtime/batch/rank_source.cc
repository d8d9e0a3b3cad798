#include "runtime/batch/rank_source.h"

#include "kernels/base/status_macros.h"

namespace tandem::batch {

absl::Status OpenFiles(const JobOptions& options, const OwnReplica& replica, RankSource& source) {
  TANDEM_ASSIGN_OR_RETURN(source.model, OpenBatchModel(options));
  TANDEM_ASSIGN_OR_RETURN(source.job, OpenBatchJob(options, *source.model));
  BatchCoordinator& coordinator = *source.job->coordinator;
  if (replica.replicas == 1 || coordinator.all_done()) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(
      source.replicas,
      ReplicaServer::Start(coordinator, {.replicas = replica.replicas,
                                         .has_own = true,
                                         .context = source.job->context,
                                         .time = source.job->time,
                                         .for_other_hosts = replica.several_hosts}));
  return absl::OkStatus();
}

absl::Status ConnectToCoordinator(const JobOptions& options, const CoordinatorAddress& coordinator,
                                  int index, RankSource& source) {
  TANDEM_ASSIGN_OR_RETURN(source.model, OpenBatchModel(options));
  TANDEM_ASSIGN_OR_RETURN(source.link,
                          CoordinatorLink::Connect(coordinator, index, source.model->reader));
  return absl::OkStatus();
}

}  // namespace tandem::batch
