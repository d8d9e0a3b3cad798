// Collectives and step plans over MPI, between all ranks of a world or some of them. Only
// point-to-point messages: a collective of MPI has no deadline and does not say which rank is late.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/step_channel.h"
#include "parallel/timeouts.h"

namespace tandem::parallel {

struct MpiGroup;  // the ranks of a world (mpi_group.h)

// Between `members`, ranks of the group in ascending order with the caller's among them; a member's
// rank is its index. The group outlives the communicator. At most one communicator of all and one
// of some may be in use; its control() is as in mpi_control_group.h.
std::unique_ptr<Communicator> MakeMpiCommunicator(const MpiGroup& group, std::vector<int> members,
                                                  int world_rank,
                                                  std::chrono::milliseconds step_timeout);

// From members[0] to the other members.
std::unique_ptr<StepChannel> MakeMpiStepChannel(const MpiGroup& group, std::vector<int> members,
                                                int world_rank, const Timeouts& timeouts);

// A code of MPI as UNAVAILABLE with its text.
absl::Status FromMpi(int code, const char* what);

}  // namespace tandem::parallel
