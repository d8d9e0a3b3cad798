// What the engine may use. Plain data; counts of tokens, blocks and sequences.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/load_guard.h"

namespace tandem::engine {

struct EngineConfig {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;         // prompt + output tokens of one sequence
  int32_t num_blocks = 0;            // of the KV cache, model::kBlockSize tokens each
  int32_t max_num_seqs = 64;         // running at once; at most max_batched_tokens count
  int32_t max_batched_tokens = 512;  // computed in one step
  int32_t max_queue = 1024;          // choices that wait for their first step
  std::vector<int32_t> eos_token_ids;
  bool enable_prefix_cache = true;
  LoadGuardOptions load_guard;
};

}  // namespace tandem::engine
