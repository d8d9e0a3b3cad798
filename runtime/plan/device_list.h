// Parses devices as a user writes them: "2x24GiB,1x16GiB".
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/plan/planner.h"

namespace tandem::plan {

// Comma-separated groups [COUNTx]SIZE, at most kMaxDevices together; units as in --kv-memory (KiB,
// MiB, GiB, TiB; GB is GiB, as GPUs are sold). `bandwidths` in GB/s (1e9 bytes a second): one for
// all groups or one for each. INVALID_ARGUMENT names the option and the group.
absl::StatusOr<std::vector<PlanDevice>> ParseDevices(const std::string& devices,
                                                     const std::vector<double>& bandwidths);

inline constexpr int kMaxDevices = 256;

}  // namespace tandem::plan
