#include "runtime/batch/own_replica.h"

#include <iterator>
#include <set>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/batch/replica_places.h"

namespace tandem::batch {
namespace {

using Cpus = std::vector<int>;

// The ranks of each host.
std::vector<std::vector<int>> RanksOfHosts(const parallel::MpiWorld& world) {
  std::vector<std::vector<int>> ranks_on;
  for (int rank = 0; rank < world.size(); ++rank) {
    const size_t host = world.host_of()[rank];
    if (host == ranks_on.size()) ranks_on.emplace_back();
    ranks_on[host].push_back(rank);
  }
  return ranks_on;
}

// On one host: one replica per socket, if sockets have several ranks each.
int RanksPerSocket(int ranks, const std::vector<Cpus>& cpus) {
  std::set<int> all;
  for (const Cpus& of_rank : cpus) all.insert(of_rank.begin(), of_rank.end());
  const absl::StatusOr<rank::Topology> topology = rank::Topology::Load();
  const int sockets = topology.ok() ? topology->MemorySockets({all.begin(), all.end()}) : 1;
  return ranks % sockets == 0 && ranks > sockets ? ranks / sockets : ranks;
}

// The replica of each rank; -1: it is left over.
std::vector<int> ReplicasOfRanks(const std::vector<ReplicaPlace>& places,
                                 const std::vector<std::vector<int>>& ranks_on, int world_size) {
  std::vector<int> replica_of(world_size, -1);
  std::vector<size_t> used(ranks_on.size(), 0);
  for (size_t k = 0; k < places.size(); ++k) {
    for (const auto& [host, count] : places[k].ranks) {
      for (int i = 0; i < count; ++i) {
        replica_of[ranks_on[host][used[host]++]] = static_cast<int>(k);
      }
    }
  }
  return replica_of;
}

rank::HostShare ShareOf(int replica, const std::set<int>& replicas) {
  return {static_cast<int>(std::distance(replicas.begin(), replicas.find(replica))),
          static_cast<int>(replicas.size())};
}

}  // namespace

absl::StatusOr<OwnReplica> FindOwnReplica(const parallel::MpiWorld& world,
                                          parallel::ControlGroup& group,
                                          const JobOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Cpus> cpus,
                          parallel::AllGatherVectors(group, rank::AllowedCpus()));
  const std::vector<std::vector<int>> ranks_on = RanksOfHosts(world);
  std::vector<int> slots;
  for (const std::vector<int>& ranks : ranks_on) slots.push_back(static_cast<int>(ranks.size()));
  int tp = options.tp;
  if (tp == 0 && options.replicas == 0 && slots.size() == 1) tp = RanksPerSocket(slots[0], cpus);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<ReplicaPlace> places,
                          CutReplicas(slots, tp, options.replicas));
  const std::vector<int> replica_of = ReplicasOfRanks(places, ranks_on, world.size());
  for (int rank = 0; rank < world.size(); ++rank) {
    if (replica_of[rank] >= 0) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", rank, " belongs to no replica: hosts have ", absl::StrJoin(slots, " and "),
        " ranks, a replica ", tp == 0 ? "as many" : absl::StrCat(tp), "; see --tp and --replicas"));
  }

  const int own = world.rank();
  OwnReplica replica;
  replica.index = replica_of[own];
  replica.replicas = static_cast<int>(places.size());
  replica.several_hosts = slots.size() > 1;
  std::set<int> on_host, with_cpus;
  for (const int rank : ranks_on[world.host_of()[own]]) {
    on_host.insert(replica_of[rank]);
    if (cpus[rank] == cpus[own]) with_cpus.insert(replica_of[rank]);
  }
  replica.memory = ShareOf(replica.index, on_host);
  replica.cpus = ShareOf(replica.index, with_cpus);
  if (replica.replicas > 1) replica.world = world.Split(replica_of);
  return replica;
}

}  // namespace tandem::batch
