// Hosts with room for ranks, and how ranks on them make replicas. Pure functions.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/rank/cpu_binding.h"

namespace tandem::rank {

struct HostSlots {
  std::string name;
  int slots = 1;  // ranks that it has room for
};

// "node1:2,node2:2"; a host without a number has one slot. INVALID_ARGUMENT for anything else.
absl::StatusOr<std::vector<HostSlots>> ParseHosts(const std::string& text);
// As ParseHosts reads them.
std::string FormatHosts(const std::vector<HostSlots>& hosts);

// A world of TP ranks.
struct ReplicaPlace {
  std::vector<std::pair<int, int>> ranks;  // host, by its index, and ranks there, in order
  HostShare share;                         // of that host, where it is one alone
};

// Replicas of `tp` ranks over hosts with so many slots each. A host with room for several has them
// by itself; hosts with fewer slots than a replica needs are joined, in order, until they have
// enough. tp 0: one replica a host, or as many ranks as `replicas` leaves each. replicas 0: as many
// as there is room for. FAILED_PRECONDITION where they do not fit.
absl::StatusOr<std::vector<ReplicaPlace>> CutReplicas(const std::vector<int>& slots, int tp,
                                                      int replicas);

}  // namespace tandem::rank
