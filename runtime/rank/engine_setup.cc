#include "runtime/rank/engine_setup.h"

#include <spdlog/spdlog.h>

namespace tandem::rank {

engine::EngineConfig EngineConfigOf(const RankRuntime& runtime) {
  engine::EngineConfig config;
  config.vocab_size = static_cast<int32_t>(runtime.config().vocab_size);
  config.max_model_len = static_cast<int32_t>(runtime.max_model_len());
  config.num_blocks = static_cast<int32_t>(runtime.num_blocks());
  config.max_batched_tokens = static_cast<int32_t>(runtime.max_batched_tokens());
  config.max_rows = static_cast<int32_t>(runtime.max_rows());
  config.eos_token_ids = runtime.eos_token_ids();
  return config;
}

engine::EngineHooks EngineHooksOf(RankRuntime& runtime, std::chrono::milliseconds heartbeat) {
  engine::EngineHooks hooks;
  hooks.on_load_guard = &LogWatchAction;
  hooks.timer = runtime.timer();
  if (runtime.tp() > 1) {
    hooks.on_idle = [&runtime] { return runtime.runner().Heartbeat(); };
    hooks.idle_interval = heartbeat;
  }
  return hooks;
}

void LogWatchAction(const engine::LoadGuardAction& action) {
  using Kind = engine::LoadGuardAction::Kind;
  spdlog::level::level_enum level = spdlog::level::info;
  if (action.kind == Kind::kLatencyAlarm) level = spdlog::level::err;
  if (action.kind == Kind::kLatencyWarning || action.kind == Kind::kBatchReduced) {
    level = spdlog::level::warn;
  }
  spdlog::log(level, "{}", action.reason);
}

}  // namespace tandem::rank
