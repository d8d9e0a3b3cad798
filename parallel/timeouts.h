// How long a rank waits for another before it gives the world up, and what it says then.
#pragma once

#include <chrono>

#include "absl/status/status.h"

namespace tandem::parallel {

// Zero: for ever.
struct Timeouts {
  std::chrono::milliseconds step{0};     // within a step, for any rank
  std::chrono::milliseconds silence{0};  // between steps, for rank 0's next plan
};

// Of a step in worlds whose steps nobody waits for at the other end of a stream: a prefill, and
// with it what ranks are apart, may be long.
inline constexpr std::chrono::seconds kPatientStep{120};

// UNAVAILABLE: `late` has not done its part of `what`, and `waiting` gives up.
absl::Status NotAnswered(int late, int waiting, std::chrono::milliseconds timeout,
                         const char* what);

// DEADLINE_EXCEEDED: the same outside of steps, where the world is started anew for nothing else.
absl::Status NotCome(int late, int waiting, std::chrono::milliseconds timeout, const char* what);

// UNAVAILABLE: no plan came from `late`.
absl::Status Silent(int late, std::chrono::milliseconds timeout);

}  // namespace tandem::parallel
