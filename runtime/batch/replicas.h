// A batch job over several replicas, each an MPI job of its own, on this host or others, so that
// the loss of one, or of its host, leaves the others at work. This process has the files and hands
// out rows; it never touches MPI or a model's weights.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/batch/options.h"
#include "runtime/rank/host_list.h"

namespace tandem::batch {

// What a replica's processes are told through the environment.
struct ReplicaRole {
  std::string coordinator;  // as server::LinkListener has it
  int index = 0;
  std::string hosts;      // to start its ranks on, as ParseHosts reads them; empty: this one
  rank::HostShare share;  // of each of its hosts
};
// nullopt in a process that is no replica's.
std::optional<ReplicaRole> ReplicaRoleOfThisProcess();

struct HostedReplica {
  std::vector<rank::HostSlots> hosts;  // empty: this one
  rank::HostShare share;
};
// What --hosts, --tp and --replicas ask for; one replica at least.
absl::StatusOr<std::vector<HostedReplica>> ReplicasOf(const JobOptions& options);

// The exit code. Starts `argv` again for each replica. The caller must not have started threads.
absl::StatusOr<int> RunReplicas(const JobOptions& options,
                                const std::vector<HostedReplica>& replicas, char** argv);

}  // namespace tandem::batch
