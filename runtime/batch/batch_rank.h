// `tandem batch` on a rank.
#pragma once

#include "runtime/batch/options.h"

namespace tandem::batch {

// Joins the world, computes rows until the job ends, and returns the exit code: 0 when every row is
// finished, kExitRequeue when rows are left for another invocation.
int RunBatchRank(const JobOptions& options);

}  // namespace tandem::batch
