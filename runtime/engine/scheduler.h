// Continuous batching as pure logic over ids and counts: no tensors, no
// threads, no clock. Decides which tokens of which sequences the next step
// computes and writes the StepPlan.
//
// A step is filled under max_batched_tokens, always in order of arrival:
//  1. decode: running sequences that lack one token;
//  2. prefill: running sequences that lack more, a chunk each;
//  3. admission: waiting sequences, until one does not fit (first come, first
//     served), each with its first chunk.
//
// A sequence is admitted with blocks for all its known tokens at once, beside
// one spare block for every running sequence; so only decode can run out of
// blocks. Then the running sequence that arrived last is pre-empted: it gives
// up its blocks, waits at its place of arrival, and its tokens so far are
// prefilled again, in chunks. Nothing is admitted in a step that pre-empted.
//
// Why it always progresses: a sequence is pre-empted only for one that arrived
// before it or for itself, and each fits an empty cache alone (Fits is checked
// first); so the running sequence that arrived first is served in every step
// and finishes.
//
// Admission beside others never takes held blocks above the watch's kv_high
// (load_guard.h), which would only reduce the batch again.
//
// Choices of one request share their prompt's full blocks: while one of them is
// running and computing that part, the others are held back (and do not hold up
// those behind them); then they take the blocks from the prefix cache or, where
// it is off, from the table of the running one.
//
// Single-threaded. Sequences are not owned and stay put between Add and Remove.
// After its first steps Schedule takes no memory; admission may.
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
  int32_t num_tokens = 0;   // computed in this step, from num_computed_tokens on
  int32_t logits_row = -1;  // its row of the step's logits; -1: known tokens remain
};

class Scheduler {
 public:
  // `config` has been validated.
  explicit Scheduler(const EngineConfig& config);

  // INVALID_ARGUMENT: a sequence that could grow to `max_total_tokens` needs
  // more blocks than there are.
  absl::Status Fits(int32_t max_total_tokens) const;

  // Queues a sequence that has arrived after all before it.
  void Add(Sequence* sequence);

  // Takes a waiting or running sequence out and frees its blocks. Not between
  // Schedule and Complete.
  void Remove(Sequence* sequence);

  // So many sequences run at once from here on, at least 1; those that arrived last are pre-empted
  // where more do. Not between Schedule and Complete.
  void LimitRunning(int32_t max_running);

  // Moves at most so many blocks of the KV cache, that occupied ones lie side by side; the
  // next plan tells the ranks. How many. Not between Schedule and Complete.
  int32_t Compact(int32_t max_moves);

  // Fills the arrays of `plan` (kind and sequence number are the caller's).
  // False, with no tokens, exactly when there are no sequences.
  bool Schedule(StepPlan& plan);

  // The step that Schedule last described has been computed: its tokens are in
  // the KV cache and full blocks can be shared.
  void Complete();

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
  bool WaitsForSharedPrompt(const Sequence& sequence) const;
  bool TryAdmit(Sequence* sequence);
  // Sets matched_ and *last: full blocks that hold the sequence's first tokens.
  void MatchPrefix(const Sequence& sequence, PrefixCache::Chain* last);
  void FreeBlocks(Sequence* sequence);
  void Take(Sequence* sequence, int32_t num_tokens);
  void FillPlan(StepPlan& plan) const;

  const EngineConfig config_;
  const int32_t most_running_;      // what the configuration allows
  const int32_t admission_blocks_;  // that may be held after an admission beside others
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
