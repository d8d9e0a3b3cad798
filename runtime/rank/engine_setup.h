// Rank 0's engine, configured for a loaded rank.
#pragma once

#include <chrono>

#include "runtime/engine/engine.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/load_guard.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::rank {

// What the model and its memory allow. The caller sets what a command decides: max_num_seqs (at
// most RankOptions::max_num_seqs), max_queue, the load guard and the speculation.
engine::EngineConfig EngineConfigOf(const RankRuntime& runtime);

// Logs what the load guard does, uses the runtime's timer, and in a world of several ranks sends
// a heartbeat to the others whenever the engine has been idle for so long. The runtime outlives the
// engine.
engine::EngineHooks EngineHooksOf(RankRuntime& runtime, std::chrono::milliseconds heartbeat);

// Alarms as errors, warnings and reduced batches as warnings, the rest as information.
void LogWatchAction(const engine::LoadGuardAction& action);

}  // namespace tandem::rank
