// Which ranks of which hosts form the replicas of a batch job. Pure functions.
#pragma once

#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/rank/cpu_binding.h"

namespace tandem::batch {

// The hosts of one replica.
struct ReplicaPlace {
  std::vector<std::pair<int, int>> ranks;  // index of a host and ranks there, in order
  rank::HostShare share;                   // of that host, for a replica on one host
};

// Replicas of `tp` ranks over hosts, of which host i has room for slots[i] ranks. A host with room
// for several replicas holds each of them whole. Hosts with fewer slots than a replica needs are
// joined in order until they have enough.
// tp 0: one replica on each host, or with `replicas`: as many ranks as that leaves each.
// replicas 0: as many as there is room for.
// FAILED_PRECONDITION where they do not fit, or where tp 0 is ambiguous.
absl::StatusOr<std::vector<ReplicaPlace>> CutReplicas(const std::vector<int>& slots, int tp,
                                                      int replicas);

}  // namespace tandem::batch
