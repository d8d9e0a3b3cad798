// Collectives and step plans of a world over several hosts: shared memory inside a host, a
// communicator of the hosts' leaders between them. The same sum tree, so the same bits.
#pragma once

#include <memory>
#include <span>

#include "parallel/communicator.h"
#include "parallel/shm_host.h"
#include "parallel/step_channel.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {

// host_of[rank] is in [0, hosts), numbered by their lowest ranks; host is the caller's.
//   leaders   the hosts' lowest ranks, for those; null on others
//   all       the whole world: gathers logits, bytes and signs of life, which go straight to
//             whom they are for
// A rank that is late is missed first by who waits for it, then by who waits for that one: the
// ranks of its host give up after 0.8 of the step timeout, leaders should after 0.9, and the rest
// after all of it.
std::unique_ptr<Communicator> MakeHostCommunicator(ShmHost& host, std::span<const int> host_of,
                                                   std::unique_ptr<Communicator> leaders,
                                                   Communicator& all,
                                                   std::chrono::milliseconds step_timeout);

// What leaders should wait at most.
std::chrono::milliseconds LeaderTimeout(std::chrono::milliseconds step_timeout);

// Rank 0 sends over `leaders` and in its host; a leader passes on what it receives. leaders is null
// on other ranks.
std::unique_ptr<StepChannel> MakeHostStepChannel(std::unique_ptr<StepChannel> leaders,
                                                 std::unique_ptr<StepChannel> host,
                                                 bool is_first_rank);

}  // namespace tandem::parallel
