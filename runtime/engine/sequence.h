// One choice of one request as the scheduler sees it: its tokens, how many of them are in the KV
// cache, and in which blocks. No tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/engine/engine_client.h"
#include "runtime/engine/logits_hash.h"
#include "runtime/engine/prefix_cache.h"

namespace tandem::engine {

enum class SequenceStatus : uint8_t {
  kWaiting,   // holds no blocks: new or pre-empted
  kRunning,   // holds blocks for all its known tokens, or will before its next step
  kFinished,  // holds no blocks and is unknown to the scheduler
};

class Sequence {
 public:
  // `arrival` orders all sequences of an engine and is never used twice.
  // `max_total_tokens` is prompt plus output at most.
  Sequence(RequestId request, int32_t choice, uint64_t arrival, std::span<const int32_t> prompt_ids,
           int32_t max_total_tokens);

  RequestId request() const { return request_; }
  int32_t choice() const { return choice_; }
  uint64_t arrival() const { return arrival_; }
  int32_t max_total_tokens() const { return max_total_tokens_; }

  // Known tokens: the prompt's and all sampled ones.
  std::span<const int32_t> tokens() const { return tokens_; }
  std::span<const int32_t> prompt_ids() const { return tokens().first(prompt_tokens_); }
  std::span<const int32_t> output_ids() const { return tokens().subspan(prompt_tokens_); }
  int32_t num_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  int32_t num_prompt_tokens() const { return prompt_tokens_; }
  int32_t num_output_tokens() const { return num_tokens() - prompt_tokens_; }
  // Known tokens whose keys and values are not in the cache: 1 in decode.
  int32_t num_uncomputed_tokens() const { return num_tokens() - num_computed_tokens; }
  // Tokens of the prompt's full blocks that another choice can share. The last
  // token is always computed anew: its logits are needed.
  int32_t num_shareable_tokens() const;

  void Append(int32_t token_id);
  // Takes all memory that the sequence will need, so that no step has to.
  void Reserve();

  // Written by the scheduler.
  SequenceStatus status = SequenceStatus::kWaiting;
  bool scheduled_before = false;
  int32_t num_computed_tokens = 0;
  int32_t cached_prompt_tokens = 0;  // not computed when first scheduled
  std::vector<int32_t> block_table;  // blocks held, in order of positions
  int32_t num_published_blocks = 0;  // of block_table, entered in the prefix cache
  PrefixCache::Chain published;      // the place after the last of them

  // Written by the engine; present if the request asks for it.
  std::optional<LogitsHash> logits_hash;

 private:
  RequestId request_;
  int32_t choice_;
  uint64_t arrival_;
  int32_t prompt_tokens_;
  int32_t max_total_tokens_;
  std::vector<int32_t> tokens_;
};

}  // namespace tandem::engine
