// Collectives and step plans of a world whose ranks share one host's memory.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/shm_host.h"
#include "parallel/step_channel.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {

// host has all ranks of the world and outlives the communicator, as does `start`, which carries
// AllGatherBytes: ranks load at their own pace. One for a host.
std::unique_ptr<Communicator> MakeShmCommunicator(ShmHost& host, ControlGroup& start,
                                                  std::chrono::milliseconds step_timeout);

// From the host's leader to its other ranks. One for a host, which outlives it.
std::unique_ptr<StepChannel> MakeShmStepChannel(ShmHost& host, const Timeouts& timeouts);

}  // namespace tandem::parallel
