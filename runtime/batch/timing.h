// Times that the processes of a batch job agree on.
#pragma once

#include <chrono>

#include "parallel/timeouts.h"

namespace tandem::batch {

// Between two signs of life: of the coordinator, of a replica, of rank 0 to the other ranks.
inline constexpr std::chrono::seconds kHeartbeat{5};
// A replica that has rows and makes no step for so long has stalled.
inline constexpr std::chrono::seconds kReplicaStall = parallel::kPatientStep + 2 * kHeartbeat;

}  // namespace tandem::batch
