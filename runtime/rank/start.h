// What every command does on a rank: join the world, load the model, end with an exit code.
//
//   int RunSomethingRank(const SomethingOptions& options) {
//     return rank::RunRank({spdlog::level::warn, options.start_timeout},
//                          [&](rank::JoinedWorld& joined) { return Something(joined, options); });
//   }
#pragma once

#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/rank/join.h"
#include "runtime/rank/outcome.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/step_trace.h"

namespace tandem::rank {

// Joins the world and calls `work`. Returns the exit code of this process.
int RunRank(const JoinOptions& options, absl::FunctionRef<RankOutcome(JoinedWorld&)> work);

struct LoadedRank {
  std::unique_ptr<StepTrace> trace;  // null: no --trace. The runtime uses its timer
  std::unique_ptr<RankRuntime> runtime;

  // Collective, after the last step. OK without a trace.
  absl::Status WriteTrace(parallel::ControlGroup& group);
};

// Collective: starts the trace where trace_file is not empty (its timer replaces options.timer) and
// loads the model. All ranks get the same error.
absl::StatusOr<LoadedRank> LoadRank(const JoinedWorld& joined, RankOptions options,
                                    const std::string& trace_file);

}  // namespace tandem::rank
