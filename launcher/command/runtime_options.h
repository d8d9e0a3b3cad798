// Options of the command line as the runtime takes them.
#pragma once

#include "launcher/command/options.h"
#include "runtime/batch/options.h"
#include "runtime/engine/memory_watch.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::launcher {

rank::RankOptions RankOptionsOf(const ModelOptions& model);
engine::WatchOptions WatchOptionsOf(const WatchLimits& limits);
batch::JobOptions JobOptionsOf(const BatchOptions& options);

}  // namespace tandem::launcher
