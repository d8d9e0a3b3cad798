#include "runtime/batch/replica_places.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tandem::batch {
namespace {

// Ranks of a replica; 0: the options leave it open.
int RanksOfReplica(const std::vector<int>& slots, int tp, int replicas) {
  if (tp > 0) return tp;
  const int total = std::accumulate(slots.begin(), slots.end(), 0);
  if (replicas > 0) return total % replicas == 0 ? total / replicas : 0;
  const bool alike = std::all_of(slots.begin(), slots.end(), [&](int n) { return n == slots[0]; });
  return alike ? slots[0] : 0;
}

// As many replicas as there is room for.
std::vector<ReplicaPlace> FillHosts(const std::vector<int>& slots, int tp) {
  std::vector<ReplicaPlace> places;
  ReplicaPlace joined;  // over several hosts
  int missing = tp;     // ranks of `joined`
  for (int host = 0; host < static_cast<int>(slots.size()); ++host) {
    if (slots[host] >= tp) {
      const int count = slots[host] / tp;
      for (int k = 0; k < count; ++k) {
        places.push_back({.ranks = {{host, tp}}, .share = {.index = k, .count = count}});
      }
      continue;
    }
    const int here = std::min(slots[host], missing);
    joined.ranks.emplace_back(host, here);
    missing -= here;
    if (missing > 0) continue;
    places.push_back(std::move(joined));
    joined = ReplicaPlace();
    missing = tp;
  }
  return places;
}

}  // namespace

absl::StatusOr<std::vector<ReplicaPlace>> CutReplicas(const std::vector<int>& slots, int tp,
                                                      int replicas) {
  tp = RanksOfReplica(slots, tp, replicas);
  if (tp == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--tp: is needed to cut hosts of ", absl::StrJoin(slots, " and "),
                     " ranks into ", replicas > 0 ? absl::StrCat(replicas, " ") : "", "replicas"));
  }
  std::vector<ReplicaPlace> places = FillHosts(slots, tp);
  if (places.empty() || static_cast<int>(places.size()) < replicas) {
    return absl::FailedPreconditionError(
        absl::StrCat("hosts with ", absl::StrJoin(slots, " and "), " ranks have room for ",
                     places.size(), " replicas of ", tp, " ranks, expected at least ",
                     std::max(1, replicas), "; see --tp and --replicas"));
  }
  if (replicas > 0) places.resize(replicas);
  // Replicas that were dropped by the resize take no part of their host.
  for (ReplicaPlace& place : places) {
    if (place.ranks.size() > 1) continue;
    const auto here = std::count_if(places.begin(), places.end(), [&](const ReplicaPlace& other) {
      return other.ranks.size() == 1 && other.ranks[0].first == place.ranks[0].first;
    });
    place.share.count = static_cast<int>(here);
  }
  return places;
}

}  // namespace tandem::batch
