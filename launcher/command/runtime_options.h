// Options of the command line as the runtime takes them.
#pragma once

#include "launcher/command/options.h"
#include "runtime/batch/options.h"
#include "runtime/engine/load_guard.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::launcher {

rank::RankOptions RankOptionsOf(const ModelOptions& model);
engine::LoadGuardOptions LoadGuardOptionsOf(const WatchLimits& limits);
batch::JobOptions JobOptionsOf(const BatchOptions& options);

}  // namespace tandem::launcher
