// `tandem plan`: reads config.json and the headers of the weights, nothing else.
#pragma once

#include <ostream>

#include "absl/status/statusor.h"
#include "launcher/command/options.h"

namespace tandem::launcher {

// The exit code: 0 when something fits, kExitUnavailable when nothing does.
absl::StatusOr<int> RunPlan(const PlanOptions& options, std::ostream& out);

}  // namespace tandem::launcher
