// `tandem batch` on a rank.
#pragma once

#include "launcher/command/options.h"

namespace tandem::launcher {

// The exit code: 0 when every row is over, kExitRequeue when rows are left for another run.
int RunBatchRank(const BatchOptions& options);

}  // namespace tandem::launcher
