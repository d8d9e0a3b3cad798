// Hosts with room for ranks. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::rank {

struct HostSlots {
  std::string name;
  int slots = 1;  // ranks that it has room for
};

// "node1:2,node2:2"; a host without a number has one slot. INVALID_ARGUMENT for anything else.
absl::StatusOr<std::vector<HostSlots>> ParseHosts(const std::string& text);
// In the form that ParseHosts reads.
std::string FormatHosts(const std::vector<HostSlots>& hosts);

}  // namespace tandem::rank
