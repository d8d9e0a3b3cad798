// The replica of this process, where one MPI world (mpirun or srun started it) holds several
// replicas.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/mpi_world.h"
#include "runtime/batch/options.h"
#include "runtime/rank/cpu_binding.h"

namespace tandem::batch {

struct OwnReplica {
  std::unique_ptr<parallel::MpiWorld> world;  // null: the replica is the whole world
  int index = 0;
  int replicas = 1;  // of the given world
  bool several_hosts = false;
  rank::HostShare cpus;    // of those that this rank may use
  rank::HostShare memory;  // of this host's
};

// Cuts the world into replicas. Collective; all ranks come to the same replicas, from their hosts,
// their CPUs and the options. FAILED_PRECONDITION where a rank would be left over.
absl::StatusOr<OwnReplica> FindOwnReplica(const parallel::MpiWorld& world,
                                          parallel::ControlGroup& group, const JobOptions& options);

}  // namespace tandem::batch
