// What a batch job prints at its end.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/batch/coordinator.h"
#include "runtime/batch/progress.h"

namespace tandem::batch {

// Enters what the coordinator and the progress know into the summary. After BatchProgress::End.
void Summarize(const BatchCoordinator& coordinator, const BatchProgress& progress,
               BatchSummary& summary);

// The summary on stdout. ABORTED where it cannot be written.
absl::Status PrintSummary(const BatchSummary& summary);

// On stderr: why the job stopped, how many rows are left, and how to continue.
void PrintStop(const std::string& reason, const BatchCounts& counts);
// On stderr, before the line that says what failed.
void PrintRowsAreSafe();

}  // namespace tandem::batch
