// What the engine may use. Plain data; counts of tokens, blocks and sequences.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "runtime/engine/load_guard.h"
#include "runtime/engine/speculation_options.h"

namespace tandem::engine {

struct EngineConfig {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;         // prompt + output tokens of one sequence
  int32_t num_blocks = 0;            // of the KV cache, model::kBlockSize tokens each
  int32_t max_num_seqs = 64;         // running at once; at most max_batched_tokens count
  int32_t max_batched_tokens = 512;  // computed in one step
  int32_t max_queue = 1024;          // choices that wait for their first step
  int32_t max_rows = 0;              // of logits in one step; 0: one for each running sequence
  std::vector<int32_t> eos_token_ids;
  bool enable_prefix_cache = true;
  LoadGuardOptions load_guard;
  SpeculationOptions speculation;
};

// Rows of logits that a step may have.
inline int32_t MaxRows(const EngineConfig& config) {
  const int32_t rows = config.max_rows > 0 ? config.max_rows : config.max_num_seqs;
  return std::min(rows, config.max_batched_tokens);
}

}  // namespace tandem::engine
