// One choice of one request as the scheduler sees it: its tokens, how many of them are in the KV
// cache, and in which blocks. No tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "runtime/engine/draft_index.h"
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
  std::span<const int32_t> tokens() const { return tokens_and_drafts().first(num_tokens_); }
  // Drafts follow the known tokens while a step computes them.
  std::span<const int32_t> tokens_and_drafts() const { return tokens_; }
  int32_t num_drafts() const { return static_cast<int32_t>(tokens_.size()) - num_tokens_; }
  std::span<const int32_t> prompt_ids() const { return tokens().first(prompt_tokens_); }
  std::span<const int32_t> output_ids() const { return tokens().subspan(prompt_tokens_); }
  int32_t num_tokens() const { return num_tokens_; }
  int32_t num_prompt_tokens() const { return prompt_tokens_; }
  int32_t num_output_tokens() const { return num_tokens() - prompt_tokens_; }
  // Known tokens whose keys and values are not in the cache: 1 in decode.
  int32_t num_uncomputed_tokens() const { return num_tokens() - num_computed_tokens; }
  // Tokens of the prompt's full blocks that another choice can share. The last
  // token is always computed anew: its logits are needed.
  int32_t num_shareable_tokens() const;

  // A sampled token. If it equals the first draft, the other drafts stay; otherwise all are
  // dropped.
  void Append(int32_t token_id);
  void AddDraft(int32_t token_id) { tokens_.push_back(token_id); }
  // Drops the drafts beyond the first `count`.
  void KeepDrafts(int32_t count);
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

  // Written by the engine.
  std::optional<LogitsHash> logits_hash;  // present if the request asks for it
  int32_t max_drafts = 0;                 // in one step, as the request allows
  std::optional<DraftIndex> draft_index;  // present if max_drafts > 0 and the answer has begun

  // Written by the Speculation: tokens of the match that the step's drafts came from.
  int32_t draft_match = 0;

 private:
  RequestId request_;
  int32_t choice_;
  uint64_t arrival_;
  int32_t prompt_tokens_;
  int32_t max_total_tokens_;
  int32_t num_tokens_;
  std::vector<int32_t> tokens_;  // drafts at the end
};

}  // namespace tandem::engine
