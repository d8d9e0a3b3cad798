// Speculative decoding that never changes an answer: a step also computes tokens that are likely to
// follow (drafts), and their logits. A draft is kept only if it equals the token that sampling
// draws at its position. Draws depend on seed, choice and position alone, and the logits of a token
// do not depend on what is computed beside it, so the answer has the same bits with and without
// drafts, at any temperature.
//
// How many drafts a step computes depends on measured times and thus differs between runs; the
// answer does not.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine/scheduler.h"
#include "runtime/engine/speculation_options.h"

namespace tandem::engine {

// Seconds of a step by its number of tokens, learned from the steps so far.
class StepCost {
 public:
  // Exact up to this many tokens; beyond, seconds are in proportion to tokens.
  static constexpr int32_t kMostTokens = 64;

  void Add(int32_t tokens, double seconds);
  // An estimate: the average of steps of this size, or between the sizes next to it. 0 before the
  // first Add.
  double Of(int32_t tokens) const;

 private:
  std::array<double, kMostTokens + 1> seconds_{};  // 0: not seen
  double seconds_per_token_ = 0;                   // of larger steps; 0: not seen
};

// How often drafts were right, by the length of the match that they came from.
class DraftRates {
 public:
  DraftRates();

  // The probability that the next draft is right if those before it were.
  double Of(int32_t match_length) const { return rates_[Group(match_length)]; }
  // `kept` of `drafts` were right; the one after them, if any, was wrong.
  void Add(int32_t match_length, int32_t drafts, int32_t kept);
  // A match of this length was not used. Its rate slowly returns to where it began, so that it is
  // tried again some hundred steps later.
  void Skip(int32_t match_length);

 private:
  static int32_t Group(int32_t match_length);
  std::vector<double> rates_;
};

// Single-threaded.
class Speculation : public DraftSource {
 public:
  explicit Speculation(SpeculationOptions options) : options_(options) {}

  // Adds drafts to the sequences of a step: to those whose next token is sampled, whose
  // `max_drafts` allows it and whose draft_index is set.
  void AddDrafts(std::span<const ScheduledSequence> scheduled, int32_t tokens_left,
                 int32_t rows_left) override;

  // A step of so many tokens, drafts included, took so long.
  void NoteStep(int32_t tokens, double seconds) { cost_.Add(tokens, seconds); }
  // Of a sequence's drafts in the last step, the first `kept` were right.
  void NoteDrafts(const Sequence& sequence, int32_t drafts, int32_t kept);

 private:
  // Drafts, at most `most`, that are worth their time in a step of `others` other tokens.
  // *expected is the number of tokens that the step is expected to yield; the drafts raise it.
  int32_t WorthDrafting(int32_t match_length, int32_t most, int32_t others, double* expected) const;

  const SpeculationOptions options_;
  StepCost cost_;
  DraftRates rates_;
};

}  // namespace tandem::engine
