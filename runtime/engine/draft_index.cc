#include "runtime/engine/draft_index.h"

#include <algorithm>
#include <bit>

namespace tandem::engine {
namespace {

// How many tokens before and at `a` equal those before and at `b`, at most `most`; a < b.
int32_t CommonEnd(std::span<const int32_t> tokens, int32_t a, int32_t b, int32_t most) {
  const int32_t limit = std::min(most, a + 1);
  int32_t length = 0;
  while (length < limit && tokens[a - length] == tokens[b - length]) ++length;
  return length;
}

}  // namespace

size_t DraftIndex::Bucket(int32_t first, int32_t second) const {
  const uint64_t pair =
      uint64_t{static_cast<uint32_t>(first)} << 32 | static_cast<uint32_t>(second);
  // Multiplicative hashing (Knuth): the high bits depend on all bits of the pair.
  return (pair * 0x9E3779B97F4A7C15u) >> (64 - std::countr_zero(latest_.size()));
}

void DraftIndex::Enter(std::span<const int32_t> tokens, int32_t end) {
  if (static_cast<size_t>(end) > 2 * latest_.size()) {
    latest_.assign(std::bit_ceil(static_cast<size_t>(end)), -1);
    previous_.clear();
  }
  if (previous_.empty()) previous_.push_back(-1);
  for (auto at = static_cast<int32_t>(previous_.size()); at < end; ++at) {
    int32_t& latest = latest_[Bucket(tokens[at - 1], tokens[at])];
    previous_.push_back(latest);
    latest = at;
  }
}

DraftIndex::Match DraftIndex::Find(std::span<const int32_t> tokens) {
  const auto last = static_cast<int32_t>(tokens.size()) - 1;
  if (last < kShortestMatch) return {};
  Enter(tokens, last);  // not the last pair: it is what is looked for
  Match best;
  int32_t at = latest_[Bucket(tokens[last - 1], tokens[last])];
  for (int32_t looked = 0; at >= 0 && looked < kMostOccurrences; ++looked, at = previous_[at]) {
    const int32_t length = CommonEnd(tokens, at, last, kLongestMatch);
    if (length < kShortestMatch || length <= best.length) continue;
    best = {.length = length, .next = at + 1};
    if (length == kLongestMatch) break;
  }
  return best;
}

}  // namespace tandem::engine
