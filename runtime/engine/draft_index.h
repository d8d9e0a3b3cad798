// Proposes drafts for one sequence: tokens that followed an earlier occurrence of its last tokens,
// in the prompt or in the answer so far. No second model. As prompt lookup (Saxena, 2023) and
// suffix decoding (Oliaro et al., 2024) do, with the longest match found by n-grams.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::engine {

class DraftIndex {
 public:
  // A shorter match does not count; a longer one counts as one of this length.
  static constexpr int32_t kShortestMatch = 2;
  static constexpr int32_t kLongestMatch = 32;

  DraftIndex() : latest_(1024, -1) {}

  struct Match {
    int32_t length = 0;  // tokens at the end that also occur earlier; 0: none
    int32_t next = -1;   // position of the token that followed them there
  };

  // The earlier occurrence of the end of `tokens` that agrees over the most tokens, the latest of
  // several. `tokens` is the whole sequence; each call may have more of them than the last one.
  // Memory grows with them: 6 to 8 bytes for each.
  Match Find(std::span<const int32_t> tokens);

 private:
  // Occurrences that one call looks at.
  static constexpr int32_t kMostOccurrences = 16;

  size_t Bucket(int32_t first, int32_t second) const;
  // Enters the pairs that end before `end`.
  void Enter(std::span<const int32_t> tokens, int32_t end);

  // Pairs of tokens that end at a position, by bucket, the latest first.
  std::vector<int32_t> latest_;    // [buckets], a position; -1: none
  std::vector<int32_t> previous_;  // [indexed positions], the one before in the same bucket
};

}  // namespace tandem::engine
