#include "runtime/rank/host_list.h"

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

}  // namespace tandem::rank
