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
  uint64_t measured_bytes = 0;  // anonymous and shared memory; loaded_bytes if it is not seen
  uint64_t loaded_bytes = 0;    // the same, when the model was loaded
  uint64_t gpu_bytes = 0;       // of its GPU, taken by all ranks on that GPU, without scratch
  bool seen = false;            // it runs on rank 0's host, so its memory is measured now
  bool ended = false;           // its process has ended; known only if it is seen
};

struct ServedModel {
  engine::EngineClient* engine = nullptr;             // outlives the server; limits are asked of it
  const tokenizer::Tokenizer* tokenizer = nullptr;    // outlives the server; null: ids only
  const chat::ChatTemplate* chat_template = nullptr;  // as tokenizer; null: takes no messages
  ModelInfo info;
  engine::SamplingRequest defaults;              // of generation_config.json
  std::function<std::vector<RankInfo>()> ranks;  // any thread; empty: no ranks are reported
  const engine::EngineMetrics* engine_metrics = nullptr;  // outlives the server; may be null
  bool step_parts = false;  // engine_metrics->part_seconds are counted
  std::chrono::steady_clock::time_point ready_since = std::chrono::steady_clock::now();
};

}  // namespace tandem::server
