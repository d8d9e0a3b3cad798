// What a front serves, once it is loaded. Plain data and borrowed pointers.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "runtime/engine/engine_client.h"
#include "runtime/engine/engine_metrics.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::server {

// The answer of GetModel.
struct ModelInfo {
  std::string name;
  std::string architecture;
  std::vector<int32_t> eos_token_ids;
  int32_t tp_degree = 1;
  std::string weight_dtype;
  std::string version;
};

// A rank in the answer of GetServerStatus and in the metrics.
struct RankInfo {
  std::string host;
  int64_t pid = 0;
  plan::MemoryPlan planned;
  uint64_t measured_bytes = 0;  // anonymous and shared memory; of one not seen, loaded_bytes
  uint64_t loaded_bytes = 0;    // the same when the model was loaded
  uint64_t gpu_bytes = 0;       // taken of its GPU by all ranks that have it, beside scratch
  bool seen = false;            // a process of rank 0's host: measured now
  bool ended = false;           // seen to have
};

struct ServedModel {
  engine::EngineClient* engine = nullptr;             // outlives the server; limits are asked of it
  const tokenizer::Tokenizer* tokenizer = nullptr;    // outlives the server; null: ids only
  const chat::ChatTemplate* chat_template = nullptr;  // as tokenizer; null: takes no messages
  ModelInfo info;
  engine::SamplingRequest defaults;                       // of generation_config.json
  std::function<std::vector<RankInfo>()> ranks;           // any thread; empty: not told
  const engine::EngineMetrics* engine_metrics = nullptr;  // outlives the server; null: not told
  bool step_parts = false;                                // its part_seconds are counted
  std::chrono::steady_clock::time_point ready_since = std::chrono::steady_clock::now();
};

}  // namespace tandem::server
