#include "runtime/batch/ending.h"

#include <cstdio>

#include "runtime/rank/exit_code.h"

namespace tandem::batch {

void Summarize(const BatchCoordinator& coordinator, const BatchProgress& progress,
               BatchSummary& summary) {
  summary.counts = coordinator.counts();
  summary.seconds = progress.seconds();
  summary.stopped = summary.counts.left() > 0;
}

absl::Status PrintSummary(const BatchSummary& summary) {
  std::printf("%s\n", SummaryJson(summary).c_str());
  if (std::fflush(stdout) != 0) return rank::OutputError("stdout: cannot be written");
  return absl::OkStatus();
}

void PrintStop(const std::string& reason, const BatchCounts& counts) {
  std::fprintf(stderr,
               "tandem: stopping, %s: %lld rows are left, run the same command again to continue\n",
               reason.c_str(), static_cast<long long>(counts.left()));
}

void PrintRowsAreSafe() {
  std::fprintf(stderr, "tandem: finished rows are safe; run the same command again to continue\n");
}

}  // namespace tandem::batch
