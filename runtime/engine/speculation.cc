#include "runtime/engine/speculation.h"

#include <algorithm>

#include "kernels/base/check.h"

namespace tandem::engine {
namespace {

constexpr double kStepWeight = 0.1;    // of a new time in the average
constexpr double kDraftWeight = 0.05;  // of one draft in the average
constexpr double kReturn = 0.003;      // toward the first guess, for each match that is not used
// First guesses for matches of 2, 3 to 4, 5 to 8, 9 to 16 and more tokens.
constexpr std::array<double, 5> kFirstRates = {0.3, 0.45, 0.7, 0.85, 0.92};

}  // namespace

void StepCost::Add(int32_t tokens, double seconds) {
  TANDEM_CHECK(tokens > 0);
  const bool large = tokens > kMostTokens;
  double& average = large ? seconds_per_token_ : seconds_[tokens];
  const double value = large ? seconds / tokens : seconds;
  average = average == 0 ? value : average + kStepWeight * (value - average);
}

double StepCost::Of(int32_t tokens) const {
  if (tokens > kMostTokens && seconds_per_token_ > 0) return tokens * seconds_per_token_;
  int32_t below = std::min(tokens, kMostTokens);
  while (below > 0 && seconds_[below] == 0) --below;
  int32_t above = tokens;
  while (above <= kMostTokens && seconds_[above] == 0) ++above;
  const double low = seconds_[below];
  if (below == tokens) return low;
  double high = above <= kMostTokens ? seconds_[above] : 0;
  if (above > kMostTokens) {
    above = std::max(kMostTokens + 1, tokens);
    high = seconds_per_token_ * above;
  }
  // Nothing larger is known: as if four tokens took twice the time of one.
  if (high == 0) return low * (1 + (tokens - below) / 4.0);
  if (high <= low || above == below) return std::max(low, high);
  return low + (high - low) * (tokens - below) / (above - below);
}

DraftRates::DraftRates() : rates_(kFirstRates.begin(), kFirstRates.end()) {}

int32_t DraftRates::Group(int32_t match_length) {
  int32_t group = 0;
  for (int32_t most = 2; match_length > most && group + 1 < int32_t{kFirstRates.size()};
       most *= 2) {
    ++group;
  }
  return group;
}

void DraftRates::Add(int32_t match_length, int32_t drafts, int32_t kept) {
  double& rate = rates_[Group(match_length)];
  for (int32_t i = 0; i < std::min(kept + 1, drafts); ++i) {
    rate += kDraftWeight * ((i < kept ? 1.0 : 0.0) - rate);
  }
}

void DraftRates::Skip(int32_t match_length) {
  const int32_t group = Group(match_length);
  rates_[group] += kReturn * (kFirstRates[group] - rates_[group]);
}

int32_t Speculation::WorthDrafting(int32_t match_length, int32_t most, int32_t others,
                                   double* expected) const {
  if (!options_.adaptive) return most;
  const double rate = rates_.Of(match_length);
  double right = rate;  // the probability that this draft and those before it are right
  int32_t drafts = 0;
  // One more token pays while it raises the expected tokens per second.
  for (; drafts < most; ++drafts, right *= rate) {
    const double now = cost_.Of(others + drafts);
    const double more = cost_.Of(others + drafts + 1);
    if (now <= 0 || right * now <= *expected * (more - now)) break;
    *expected += right;
  }
  return drafts;
}

void Speculation::AddDrafts(std::span<const ScheduledSequence> scheduled, int32_t tokens_left,
                            int32_t rows_left) {
  int32_t tokens = 0;
  double expected = 0;  // tokens that the step yields
  for (const ScheduledSequence& entry : scheduled) {
    tokens += entry.num_tokens;
    expected += entry.samples ? 1 : 0;
  }
  int32_t left = std::min(tokens_left, rows_left);
  for (const ScheduledSequence& entry : scheduled) {
    if (left <= 0) return;
    Sequence& sequence = *entry.sequence;
    if (!entry.samples || sequence.max_drafts == 0 || !sequence.draft_index) continue;
    // The last token of a sequence is sampled and never computed.
    const int32_t room = sequence.max_total_tokens() - sequence.num_tokens() - 1;
    const int32_t most = std::min({room, left, sequence.max_drafts, options_.max_drafts});
    if (most <= 0) continue;
    const DraftIndex::Match match = sequence.draft_index->Find(sequence.tokens());
    sequence.draft_match = match.length;
    if (match.length == 0) continue;
    const int32_t drafts = WorthDrafting(match.length, most, tokens, &expected);
    if (drafts == 0) rates_.Skip(match.length);
    // Where the match overlaps the end, the drafts repeat themselves.
    for (int32_t i = 0; i < drafts; ++i) {
      sequence.AddDraft(sequence.tokens_and_drafts()[match.next + i]);
    }
    tokens += drafts;
    left -= drafts;
  }
}

void Speculation::NoteDrafts(const Sequence& sequence, int32_t drafts, int32_t kept) {
  if (drafts > 0) rates_.Add(sequence.draft_match, drafts, kept);
}

}  // namespace tandem::engine
