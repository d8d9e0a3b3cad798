#include "runtime/rank/start.h"

#include <utility>

#include "kernels/base/status_macros.h"
#include "runtime/rank/exit_code.h"

namespace tandem::rank {

int RunRank(const JoinOptions& options, absl::FunctionRef<RankOutcome(JoinedWorld&)> work) {
  absl::StatusOr<JoinedWorld> joined = JoinWorld(options);
  if (!joined.ok()) return ReportError(joined.status());
  return work(*joined).exit_code;
}

absl::Status LoadedRank::WriteTrace(parallel::ControlGroup& group) {
  return trace == nullptr ? absl::OkStatus() : trace->Write(group);
}

absl::StatusOr<LoadedRank> LoadRank(const JoinedWorld& joined, RankOptions options,
                                    const std::string& trace_file) {
  LoadedRank loaded;
  if (!trace_file.empty()) {
    TANDEM_ASSIGN_OR_RETURN(loaded.trace, StepTrace::Start(*joined.communicator, trace_file));
    options.timer = loaded.trace->timer();
  }
  TANDEM_ASSIGN_OR_RETURN(loaded.runtime, RankRuntime::Load(joined.world.get(), options));
  return loaded;
}

}  // namespace tandem::rank
