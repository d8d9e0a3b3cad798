// How much speculation an engine does (speculation.h).
#pragma once

#include <cstdint>

namespace tandem::engine {

struct SpeculationOptions {
  // The most drafts for a sequence in one step; 0: no speculation.
  int32_t max_drafts = 0;
  // Whether a draft is computed only where it is expected to save time; otherwise wherever one is
  // found and fits.
  bool adaptive = true;
};

// The most that a request or an option may ask for.
inline constexpr int32_t kMostDrafts = 32;
// Of `--speculate auto`.
inline constexpr int32_t kAutoDrafts = 8;

}  // namespace tandem::engine
