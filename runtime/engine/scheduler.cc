#include "runtime/engine/scheduler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/model/step_input.h"

namespace tandem::engine {
namespace {

using model::kBlockSize;

constexpr int32_t kMostReserved = 4096;

bool ArrivedBefore(const Sequence* a, const Sequence* b) { return a->arrival() < b->arrival(); }

void InsertByArrival(std::vector<Sequence*>& list, Sequence* sequence) {
  list.insert(std::upper_bound(list.begin(), list.end(), sequence, ArrivedBefore), sequence);
}

}  // namespace

Scheduler::Scheduler(const EngineConfig& config)
    : config_(config),
      most_running_(std::min(config.max_num_seqs, config.max_batched_tokens)),
      most_rows_(MaxRows(config)),
      admission_blocks_(static_cast<int32_t>(config.load_guard.kv_high * config.num_blocks)),
      max_running_(most_running_),
      prefix_cache_(config.num_blocks),
      block_manager_(config.num_blocks, &prefix_cache_) {
  TANDEM_CHECK(max_running_ > 0);
  // Ahead of the first steps; limits may be beyond what ever comes.
  const int32_t reserved = std::min(max_running_, kMostReserved);
  waiting_.reserve(std::min(config.max_queue, kMostReserved) + reserved);
  running_.reserve(reserved);
  scheduled_.reserve(reserved);
  matched_.reserve(BlocksFor(config.max_model_len));
  renamed_.assign(config.num_blocks, -1);
}

absl::Status Scheduler::Fits(int32_t max_total_tokens) const {
  // The last token is sampled and never computed.
  const int32_t blocks = BlocksFor(max_total_tokens - 1);
  if (blocks <= block_manager_.num_blocks()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "prompt and max_tokens make ", max_total_tokens, " tokens, which need ", blocks,
      " KV blocks of ", kBlockSize, " tokens; there are ", block_manager_.num_blocks()));
}

void Scheduler::Add(Sequence* sequence) {
  TANDEM_CHECK(sequence->status == SequenceStatus::kWaiting && sequence->block_table.empty());
  TANDEM_CHECK(waiting_.empty() || ArrivedBefore(waiting_.back(), sequence));
  waiting_.push_back(sequence);
}

void Scheduler::Remove(Sequence* sequence) {
  TANDEM_CHECK(sequence->status != SequenceStatus::kFinished);
  std::vector<Sequence*>& list = sequence->status == SequenceStatus::kRunning ? running_ : waiting_;
  const auto at = std::lower_bound(list.begin(), list.end(), sequence, ArrivedBefore);
  TANDEM_CHECK(at != list.end() && *at == sequence);
  list.erase(at);
  FreeBlocks(sequence);
  sequence->status = SequenceStatus::kFinished;
}

void Scheduler::LimitRunning(int32_t max_running) {
  TANDEM_CHECK(max_running >= 1 && max_running <= most_running_);
  max_running_ = max_running;
  while (num_running() > max_running_) PreemptLast();
}

int32_t Scheduler::Compact(int32_t max_moves) {
  const size_t before = moves_.size();
  block_manager_.Compact(max_moves, &moves_);
  const std::span<const BlockMove> moves = std::span(moves_).subspan(before);
  for (const BlockMove& move : moves) renamed_[move.from] = move.to;
  for (Sequence* sequence : running_) {
    for (int32_t& block : sequence->block_table) {
      if (renamed_[block] >= 0) block = renamed_[block];
    }
  }
  for (const BlockMove& move : moves) renamed_[move.from] = -1;
  return static_cast<int32_t>(moves.size());
}

bool Scheduler::Schedule(StepPlan& plan, DraftSource* drafts) {
  plan.Clear();
  scheduled_.clear();
  preempted_ = false;
  num_rows_ = 0;
  int32_t budget = config_.max_batched_tokens;

  // Pre-emption takes from the end of running_, so that a sequence already
  // scheduled here, being earlier, is never a victim.
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence* sequence = running_[i];
    if (sequence->num_uncomputed_tokens() != 1) continue;
    if (!Grow(sequence)) break;
    Take(sequence, 1);
    --budget;
  }
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence* sequence = running_[i];
    if (sequence->num_uncomputed_tokens() == 1) continue;
    const int32_t chunk = std::min(sequence->num_uncomputed_tokens(), budget);
    Take(sequence, chunk);
    budget -= chunk;
  }
  for (size_t i = 0; i < waiting_.size() && budget > 0 && !preempted_;) {
    if (num_running() >= max_running_) break;
    Sequence* sequence = waiting_[i];
    if (WaitsForSharedPrompt(*sequence)) {
      ++i;
      continue;
    }
    if (!TryAdmit(sequence)) break;
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    InsertByArrival(running_, sequence);
    const int32_t chunk = std::min(sequence->num_uncomputed_tokens(), budget);
    Take(sequence, chunk);
    budget -= chunk;
  }

  TANDEM_CHECK(scheduled_.empty() == (running_.empty() && waiting_.empty()));
  if (scheduled_.empty()) return false;
  if (drafts != nullptr && budget > 0 && !preempted_) TakeDrafts(*drafts, budget);
  for (ScheduledSequence& entry : scheduled_) {
    if (!entry.samples) continue;
    entry.logits_row = num_rows_;
    num_rows_ += 1 + entry.num_drafts;
  }
  FillPlan(plan);
  moves_.clear();
  return true;
}

void Scheduler::Complete() {
  for (const ScheduledSequence& entry : scheduled_) Advance(*entry.sequence, entry.num_tokens);
}

void Scheduler::KeepDraft(Sequence* sequence) { Advance(*sequence, 1); }

void Scheduler::DropDrafts(Sequence* sequence) {
  sequence->KeepDrafts(0);
  while (static_cast<int32_t>(sequence->block_table.size()) > BlocksFor(sequence->num_tokens())) {
    block_manager_.Release(sequence->block_table.back());
    sequence->block_table.pop_back();
  }
}

void Scheduler::Advance(Sequence& sequence, int32_t count) {
  sequence.num_computed_tokens += count;
  if (!config_.enable_prefix_cache) return;
  const int32_t full = sequence.num_computed_tokens / kBlockSize;
  for (int32_t& i = sequence.num_published_blocks; i < full; ++i) {
    sequence.published = prefix_cache_.Insert(
        sequence.published, sequence.tokens().subspan(size_t{kBlockSize} * i, kBlockSize),
        sequence.block_table[i]);
  }
}

bool Scheduler::Grow(Sequence* sequence) {
  const size_t needed = BlocksFor(sequence->num_tokens());
  while (sequence->block_table.size() < needed) {
    const int32_t block = block_manager_.Allocate();
    if (block >= 0) {
      sequence->block_table.push_back(block);
      continue;
    }
    const bool itself = running_.back() == sequence;
    PreemptLast();
    if (itself) return false;
  }
  return true;
}

void Scheduler::PreemptLast() {
  Sequence* victim = running_.back();
  running_.pop_back();
  FreeBlocks(victim);
  victim->status = SequenceStatus::kWaiting;
  InsertByArrival(waiting_, victim);
  ++num_preemptions_;
  preempted_ = true;
}

bool Scheduler::WaitsForSharedPrompt(const Sequence& sequence) const {
  for (const Sequence* other : running_) {
    if (other->request() == sequence.request() &&
        other->num_computed_tokens < other->num_shareable_tokens()) {
      return true;
    }
  }
  return false;
}

void Scheduler::MatchPrefix(const Sequence& sequence, PrefixCache::Chain* last) {
  matched_.clear();
  *last = {};
  if (config_.enable_prefix_cache) {
    // The last known token is computed in any case: its logits are needed.
    const int32_t most = (sequence.num_tokens() - 1) / kBlockSize;
    for (int32_t i = 0; i < most; ++i) {
      const int32_t block = prefix_cache_.Find(
          *last, sequence.tokens().subspan(size_t{kBlockSize} * i, kBlockSize), last);
      if (block < 0) break;
      matched_.push_back(block);
    }
    return;
  }
  for (const Sequence* other : running_) {
    if (other->request() != sequence.request()) continue;
    if (other->num_computed_tokens < other->num_shareable_tokens()) continue;
    const auto begin = other->block_table.begin();
    matched_.assign(begin, begin + sequence.num_shareable_tokens() / kBlockSize);
    return;
  }
}

bool Scheduler::TryAdmit(Sequence* sequence) {
  PrefixCache::Chain last;
  MatchPrefix(*sequence, &last);
  const auto matched = static_cast<int32_t>(matched_.size());
  // Cached blocks without holders count as available until they are taken.
  int32_t taken = BlocksFor(sequence->num_tokens()) - matched;
  for (const int32_t block : matched_) taken += block_manager_.ref_count(block) == 0;
  if (taken + num_running() > block_manager_.num_available()) return false;
  if (num_running() > 0 && block_manager_.num_used() + taken > admission_blocks_) return false;

  if (!sequence->scheduled_before) sequence->Reserve();
  for (const int32_t block : matched_) {
    block_manager_.Retain(block);
    sequence->block_table.push_back(block);
  }
  while (static_cast<int32_t>(sequence->block_table.size()) < BlocksFor(sequence->num_tokens())) {
    const int32_t block = block_manager_.Allocate();
    TANDEM_CHECK(block >= 0);
    sequence->block_table.push_back(block);
  }
  sequence->num_computed_tokens = matched * kBlockSize;
  if (config_.enable_prefix_cache) {
    sequence->num_published_blocks = matched;
    sequence->published = last;
  }
  if (!sequence->scheduled_before) sequence->cached_prompt_tokens = matched * kBlockSize;
  sequence->scheduled_before = true;
  sequence->status = SequenceStatus::kRunning;
  return true;
}

void Scheduler::FreeBlocks(Sequence* sequence) {
  while (!sequence->block_table.empty()) {
    block_manager_.Release(sequence->block_table.back());
    sequence->block_table.pop_back();
  }
  sequence->num_computed_tokens = 0;
  sequence->num_published_blocks = 0;
  sequence->published = {};
}

void Scheduler::Take(Sequence* sequence, int32_t num_tokens) {
  scheduled_.push_back({.sequence = sequence,
                        .num_tokens = num_tokens,
                        .samples = num_tokens == sequence->num_uncomputed_tokens()});
}

void Scheduler::TakeDrafts(DraftSource& drafts, int32_t budget) {
  int32_t rows = most_rows_;
  for (const ScheduledSequence& entry : scheduled_) rows -= entry.samples ? 1 : 0;
  if (rows <= 0) return;
  drafts.AddDrafts(scheduled_, budget, rows);
  for (ScheduledSequence& entry : scheduled_) {
    Sequence& sequence = *entry.sequence;
    const auto needed = [&] { return BlocksFor(sequence.num_tokens() + sequence.num_drafts()); };
    // One block stays for each running sequence, as after an admission.
    while (static_cast<int32_t>(sequence.block_table.size()) < needed() &&
           block_manager_.num_available() > num_running()) {
      sequence.block_table.push_back(block_manager_.Allocate());
    }
    const auto held = static_cast<int32_t>(sequence.block_table.size());
    sequence.KeepDrafts(std::max(held * kBlockSize - sequence.num_tokens(), 0));
    entry.num_drafts = sequence.num_drafts();
  }
}

void Scheduler::FillPlan(StepPlan& plan) const {
  for (const ScheduledSequence& entry : scheduled_) {
    const int32_t context =
        entry.sequence->num_computed_tokens + entry.num_tokens + entry.num_drafts;
    plan.max_blocks = std::max(plan.max_blocks, BlocksFor(context));
  }
  for (const BlockMove& move : moves_) {
    plan.block_moves.push_back(move.from);
    plan.block_moves.push_back(move.to);
  }
  plan.cu_seqlens_q.push_back(0);
  for (const ScheduledSequence& entry : scheduled_) {
    const Sequence& sequence = *entry.sequence;
    const int32_t begin = sequence.num_computed_tokens;
    const int32_t context = begin + entry.num_tokens + entry.num_drafts;
    for (int32_t position = begin; position < context; ++position) {
      plan.token_ids.push_back(sequence.tokens_and_drafts()[position]);
      plan.positions.push_back(position);
      plan.slot_mapping.push_back(sequence.block_table[position / kBlockSize] * kBlockSize +
                                  position % kBlockSize);
    }
    plan.cu_seqlens_q.push_back(static_cast<int32_t>(plan.token_ids.size()));
    plan.context_lens.push_back(context);
    // Blocks beyond this step's context say nothing to the ranks.
    const auto first = sequence.block_table.begin();
    plan.block_tables.insert(plan.block_tables.end(), first, first + BlocksFor(context));
    plan.block_tables.resize(plan.context_lens.size() * static_cast<size_t>(plan.max_blocks), -1);
    if (!entry.samples) continue;
    for (int32_t row = entry.num_drafts; row >= 0; --row) {
      plan.logits_indices.push_back(static_cast<int32_t>(plan.token_ids.size()) - 1 - row);
    }
  }
}

}  // namespace tandem::engine
