// The second step of a rank: where all ranks run, and which CPUs this one gets.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/control_group.h"
#include "parallel/mpi_world.h"
#include "runtime/rank/cpu_binding.h"
#include "runtime/rank/options.h"

namespace tandem::rank {

// Where a rank runs.
struct RankPlace {
  std::string host;
  std::string pid_namespace;  // with the kernel's boot id: ranks with the same one see each other
  pid_t pid = 0;
};

struct Placement {
  std::vector<RankPlace> places;      // of all ranks, by rank
  std::vector<std::string> bindings;  // of all ranks, in words, for the log
  Binding binding;                    // of this rank
  std::vector<int> stream_cpus;       // what this thread could use before it was bound
  int local_rank = 0;                 // on this host, ranks of other worlds included
  int local_size = 1;                 // ranks of this world on this host
  int ranks_on_host = 1;              // ranks of other worlds included; those are of equal size
};

// Chooses threads and CPUs together with the other ranks of the host, and binds this thread:
// weights are then first touched, and so placed, on its NUMA node. Collective. `world` is null in a
// world of one without MPI.
absl::StatusOr<Placement> PlaceRank(const parallel::MpiWorld* world, parallel::ControlGroup& group,
                                    const RankOptions& options);

}  // namespace tandem::rank
