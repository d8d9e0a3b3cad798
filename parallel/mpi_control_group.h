// Exchanges outside of steps over MPI.
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "parallel/control_group.h"

namespace tandem::parallel {

struct MpiGroup;  // the ranks of a world (mpi_group.h)

// Between `members`, as in mpi_communicator.h. AllGatherBytes has the group's patience and works
// among all ranks of the group only; Barrier has the step timeout.
std::unique_ptr<ControlGroup> MakeMpiControlGroup(const MpiGroup& group, std::vector<int> members,
                                                  int world_rank,
                                                  std::chrono::milliseconds step_timeout);

}  // namespace tandem::parallel
