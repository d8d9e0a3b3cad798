// Where rank 0 of a replica gets its rows from: the files of the job, which rank 0 of the given
// world has, or the coordinator in another process.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "runtime/batch/coordinator_link.h"
#include "runtime/batch/job.h"
#include "runtime/batch/link.h"
#include "runtime/batch/options.h"
#include "runtime/batch/own_replica.h"
#include "runtime/batch/replica_server.h"
#include "runtime/batch/row_source.h"

namespace tandem::batch {

// Either `job` or `link` is there once it is open; neither on ranks other than 0 of a replica.
struct RankSource {
  std::unique_ptr<BatchModel> model;        // with which rows are read
  std::unique_ptr<BatchJob> job;            // this process has the files
  std::unique_ptr<ReplicaServer> replicas;  // a job of several replicas: the others
  std::unique_ptr<CoordinatorLink> link;    // another process has the files

  RowSource& rows() const {
    return job != nullptr ? static_cast<RowSource&>(*job->coordinator) : *link;
  }
};

// Opens the files of the job; where the given world holds several replicas and rows are left, also
// listens for the others. The errors of OpenBatchModel, OpenBatchJob and ReplicaServer.
absl::Status OpenFiles(const JobOptions& options, const OwnReplica& replica, RankSource& source);

// Connects replica `index` to the coordinator. The errors of OpenBatchModel and CoordinatorLink.
absl::Status ConnectToCoordinator(const JobOptions& options, const CoordinatorAddress& coordinator,
                                  int index, RankSource& source);

}  // namespace tandem::batch
