// A batch job over several replicas, each an MPI job of its own, on this host or others: when one
// replica or its host dies, the others continue. This process has the files and gives out the rows;
// it never touches MPI or a model's weights.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "runtime/batch/options.h"
#include "runtime/batch/replica_processes.h"

namespace tandem::batch {

// What --hosts, --tp and --replicas ask for; one replica at least.
absl::StatusOr<std::vector<HostedReplica>> ReplicasOf(const JobOptions& options);

// The exit code. Executes `argv` again for each replica. The caller must not have started threads.
absl::StatusOr<int> RunReplicas(const JobOptions& options,
                                const std::vector<HostedReplica>& replicas, char** argv);

}  // namespace tandem::batch
