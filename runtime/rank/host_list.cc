#include "runtime/rank/host_list.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace tandem::rank {
namespace {

constexpr int kMostSlots = 4096;

}  // namespace

absl::StatusOr<std::vector<HostSlots>> ParseHosts(const std::string& text) {
  std::vector<HostSlots> hosts;
  for (const absl::string_view one : absl::StrSplit(text, ',')) {
    const std::vector<std::string> parts = absl::StrSplit(one, ':');
    HostSlots host{.name = parts[0]};
    const bool good = parts.size() <= 2 && !host.name.empty() && host.name[0] != '-' &&
                      (parts.size() == 1 || (absl::SimpleAtoi(parts[1], &host.slots) &&
                                             host.slots >= 1 && host.slots <= kMostSlots));
    if (!good) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--hosts: found '", one, "', expected HOST or HOST:SLOTS such as node1:2,node2:2"));
    }
    for (const HostSlots& other : hosts) {
      if (other.name != host.name) continue;
      return absl::InvalidArgumentError(absl::StrCat("--hosts: found ", host.name,
                                                     " again, expected each host once with its "
                                                     "slots, such as ",
                                                     host.name, ":2"));
    }
    hosts.push_back(std::move(host));
  }
  return hosts;
}

std::string FormatHosts(const std::vector<HostSlots>& hosts) {
  return absl::StrJoin(hosts, ",", [](std::string* out, const HostSlots& host) {
    absl::StrAppend(out, host.name, ":", host.slots);
  });
}

absl::StatusOr<std::vector<ReplicaPlace>> CutReplicas(const std::vector<int>& slots, int tp,
                                                      int replicas) {
  const int total = std::accumulate(slots.begin(), slots.end(), 0);
  const bool alike = std::all_of(slots.begin(), slots.end(), [&](int n) { return n == slots[0]; });
  if (tp == 0 && replicas > 0 && total % replicas == 0) tp = total / replicas;
  if (tp == 0 && replicas == 0 && alike) tp = slots[0];
  if (tp == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("--tp: is needed to cut hosts of ", absl::StrJoin(slots, " and "),
                     " ranks into ", replicas > 0 ? absl::StrCat(replicas, " ") : "", "replicas"));
  }
  std::vector<ReplicaPlace> places;
  ReplicaPlace joined;
  int missing = tp;
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
  if (places.empty() || static_cast<int>(places.size()) < replicas) {
    return absl::FailedPreconditionError(
        absl::StrCat("hosts with ", absl::StrJoin(slots, " and "), " ranks have room for ",
                     places.size(), " replicas of ", tp, " ranks, expected at least ",
                     std::max(1, replicas), "; see --tp and --replicas"));
  }
  if (replicas > 0) places.resize(replicas);
  // What is left out has no share.
  for (ReplicaPlace& place : places) {
    if (place.ranks.size() > 1) continue;
    const auto here = std::count_if(places.begin(), places.end(), [&](const ReplicaPlace& other) {
      return other.ranks.size() == 1 && other.ranks[0].first == place.ranks[0].first;
    });
    place.share.count = static_cast<int>(here);
  }
  return places;
}

}  // namespace tandem::rank
