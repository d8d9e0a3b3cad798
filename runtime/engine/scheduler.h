// Continuous batching as pure logic over ids and counts: no tensors, no threads, no clock. Decides
// which tokens of which sequences the next step computes, and writes the StepPlan.
//
// A step has at most max_batched_tokens tokens. They are given out in order of arrival:
//  1. decode: running sequences that lack one token;
//  2. prefill: running sequences that lack more, one chunk each;
//  3. admission: waiting sequences, each with its first chunk, until one does not fit;
//  4. drafts, if there is a source of them: tokens that a sequence may have next (speculation.h).
//     They only take tokens, rows of logits and blocks that nobody else needs now.
//
// Admission takes the blocks for all known tokens of a sequence at once, and leaves one spare block
// for every running sequence; so only decode can run out of blocks. Then the scheduler pre-empts
// the running sequence that arrived last: that sequence gives up its blocks, returns to its place
// in the queue, and its tokens are prefilled again later. A step that pre-empted admits nothing.
//
// Why it always progresses: a sequence is pre-empted only for an earlier one or for itself, and
// each sequence fits an empty cache alone (Fits checks this first). So the earliest running
// sequence is served in every step and finishes.
//
// If other sequences run, admission never raises the held blocks above the load guard's kv_high
// (load_guard.h): the guard would reduce the batch again at once.
//
// Choices of one request share the full blocks of their prompt. While one choice computes them, the
// others wait, without delaying later requests. Then they take the blocks from the prefix cache or,
// if it is off, from the block table of the running choice.
//
// Single-threaded. Sequences are not owned and must not move between Add and Remove. After its
// first steps Schedule takes no memory; admission may.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "runtime/engine/block_manager.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/prefix_cache.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_plan.h"

namespace tandem::engine {

// What one step does for one sequence.
struct ScheduledSequence {
  Sequence* sequence = nullptr;
  int32_t num_tokens = 0;   // known ones computed in this step, from num_computed_tokens on
  bool samples = false;     // no known tokens remain: the next one is sampled
  int32_t num_drafts = 0;   // computed after the known ones
  int32_t logits_row = -1;  // if it samples: its first row of the step's logits, one more per draft
};

// Where drafts come from.
class DraftSource {
 public:
  virtual ~DraftSource() = default;
  // Adds drafts (Sequence::AddDraft) to sequences that sample, at most so many in all.
  virtual void AddDrafts(std::span<const ScheduledSequence> scheduled, int32_t tokens_left,
                         int32_t rows_left) = 0;
};

class Scheduler {
 public:
  // `config` has been validated.
  explicit Scheduler(const EngineConfig& config);

  // INVALID_ARGUMENT: a sequence that could grow to `max_total_tokens` needs
  // more blocks than there are.
  absl::Status Fits(int32_t max_total_tokens) const;

  // Queues a sequence, which has arrived after all others.
  void Add(Sequence* sequence);

  // Takes a waiting or running sequence out and frees its blocks. Not between
  // Schedule and Complete.
  void Remove(Sequence* sequence);

  // At most this many sequences run at once from now on, at least 1. If more run, those that
  // arrived last are pre-empted. Not between Schedule and Complete.
  void LimitRunning(int32_t max_running);

  // Moves up to max_moves blocks of the KV cache so that occupied blocks lie side by side; the next
  // plan carries the moves to the ranks. Returns how many. Not between Schedule and Complete.
  int32_t Compact(int32_t max_moves);

  // Fills the arrays of `plan` (kind and sequence number are the caller's).
  // False, with no tokens, exactly when there are no sequences. `drafts` may be null.
  bool Schedule(StepPlan& plan, DraftSource* drafts = nullptr);

  // The step that Schedule last described has been computed: its known tokens are in the KV cache
  // and full blocks can be shared.
  void Complete();

  // After Complete: the sequence's first draft has become a known token (Sequence::Append), so what
  // the step has computed for it holds.
  void KeepDraft(Sequence* sequence);
  // After Complete: the drafts that are left were wrong. Frees the blocks that only they needed.
  void DropDrafts(Sequence* sequence);

  // Of the last Schedule, in the order of the plan.
  std::span<const ScheduledSequence> scheduled() const { return scheduled_; }

  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t max_running() const { return most_running_; }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  const BlockManager& block_manager() const { return block_manager_; }

 private:
  // Gives a running sequence the blocks its known tokens need, by pre-emption
  // if it must. False when it had to pre-empt the sequence itself.
  bool Grow(Sequence* sequence);
  void PreemptLast();
  // Whether another choice of the request is still computing the prompt blocks that both share.
  bool WaitsForSharedPrompt(const Sequence& sequence) const;
  bool TryAdmit(Sequence* sequence);
  // Sets matched_ and *last: full blocks that hold the sequence's first tokens.
  void MatchPrefix(const Sequence& sequence, PrefixCache::Chain* last);
  void FreeBlocks(Sequence* sequence);
  void Take(Sequence* sequence, int32_t num_tokens);
  // Step 4. Drafts for which there are no spare blocks are dropped again.
  void TakeDrafts(DraftSource& drafts, int32_t budget);
  // `count` more tokens of the sequence are in the KV cache.
  void Advance(Sequence& sequence, int32_t count);
  void FillPlan(StepPlan& plan) const;

  const EngineConfig config_;
  const int32_t most_running_;      // what the configuration allows
  const int32_t most_rows_;         // of logits in one step
  const int32_t admission_blocks_;  // that may be held after an admission, if other sequences run
  int32_t max_running_;             // now
  PrefixCache prefix_cache_;
  BlockManager block_manager_;
  std::vector<Sequence*> waiting_;  // by arrival
  std::vector<Sequence*> running_;  // by arrival
  std::vector<ScheduledSequence> scheduled_;
  std::vector<int32_t> matched_;  // scratch of admission
  std::vector<BlockMove> moves_;  // since the last plan
  std::vector<int32_t> renamed_;  // [blocks], where a block went; -1: nowhere
  int64_t num_preemptions_ = 0;
  int32_t num_rows_ = 0;    // of logits, in this step
  bool preempted_ = false;  // in this step
};

}  // namespace tandem::engine
