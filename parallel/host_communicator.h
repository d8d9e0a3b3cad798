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
//   leaders   connects the lowest ranks of the hosts; null on other ranks
//   all       the whole world: logits, bytes and heartbeats go directly to their receivers
// The peers that wait for a late rank itself notice it first: the ranks of its host give up after
// 0.8 of the step timeout, the leaders after 0.9 (LeaderTimeout), all other ranks after the whole
// timeout.
std::unique_ptr<Communicator> MakeHostCommunicator(ShmHost& host, std::span<const int> host_of,
                                                   std::unique_ptr<Communicator> leaders,
                                                   Communicator& all,
                                                   std::chrono::milliseconds step_timeout);

// The step timeout of `leaders`.
std::chrono::milliseconds LeaderTimeout(std::chrono::milliseconds step_timeout);

// Rank 0 sends over `leaders` and inside its host; a leader forwards what it receives to its host.
// `leaders` is null on other ranks.
std::unique_ptr<StepChannel> MakeHostStepChannel(std::unique_ptr<StepChannel> leaders,
                                                 std::unique_ptr<StepChannel> host,
                                                 bool is_first_rank);

}  // namespace tandem::parallel
