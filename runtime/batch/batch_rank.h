// `tandem batch` on a rank.
#pragma once

#include "runtime/batch/options.h"

namespace tandem::batch {

// The exit code: 0 when every row is over, kExitRequeue when rows are left for another run.
int RunBatchRank(const JobOptions& options);

}  // namespace tandem::batch
