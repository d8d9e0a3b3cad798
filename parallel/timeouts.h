// How long a rank waits for another before it gives up the world, and the errors that it reports.
#pragma once

#include <chrono>

#include "absl/status/status.h"

namespace tandem::parallel {

// Zero: no limit.
struct Timeouts {
  std::chrono::milliseconds step{0};     // within a step, for any rank
  std::chrono::milliseconds silence{0};  // between steps, for rank 0's next plan
};

// The step timeout of commands without streams (generate, bench, eval, batch), which can wait for a
// long prefill.
inline constexpr std::chrono::seconds kPatientStep{120};

// UNAVAILABLE: rank `late` has not done its part of `what`, and rank `waiting` gives up.
absl::Status NotAnswered(int late, int waiting, std::chrono::milliseconds timeout,
                         const char* what);

// DEADLINE_EXCEEDED: the same outside of steps. No other error there makes the launcher start a new
// world.
absl::Status NotCome(int late, int waiting, std::chrono::milliseconds timeout, const char* what);

// UNAVAILABLE: rank `late` has sent no plan.
absl::Status Silent(int late, std::chrono::milliseconds timeout);

}  // namespace tandem::parallel
