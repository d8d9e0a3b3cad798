#include "parallel/collectives.h"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "parallel/host_communicator.h"
#include "parallel/mpi_communicator.h"
#include "parallel/shm_communicator.h"

namespace tandem::parallel {

absl::StatusOr<Collectives> MakeCollectives(const MpiWorld& world, ControlGroup& start,
                                            std::span<const int> host_of,
                                            const CollectivesOptions& options) {
  const int rank = start.rank(), size = start.size();
  const Timeouts& timeouts = options.timeouts;
  std::vector<int> ranks(size);
  std::iota(ranks.begin(), ranks.end(), 0);
  std::vector<int> leaders;
  for (const int r : ranks) {
    if (host_of[r] == static_cast<int>(leaders.size())) leaders.push_back(r);
  }
  const int hosts = static_cast<int>(leaders.size());

  Collectives made;
  made.all = MakeMpiCommunicator(world.group(), ranks, rank, timeouts.step);
  // With one rank per host no two ranks can share memory.
  bool share = options.choice != CollectivesChoice::kMpi && hosts < size;
  if (share) {
    absl::StatusOr<std::unique_ptr<ShmHost>> host = ShmHost::Create(start, host_of, options.shm);
    if (host.ok()) {
      made.host = *std::move(host);
    } else if (options.choice == CollectivesChoice::kShm) {
      return host.status();
    } else {
      made.fallback = std::string(host.status().message());
      share = false;
    }
  }
  if (!share) {
    made.communicator = MakeMpiCommunicator(world.group(), ranks, rank, timeouts.step);
    made.channel = MakeMpiStepChannel(world.group(), ranks, rank, timeouts);
    made.description = "MPI";
  } else if (hosts == 1) {
    made.communicator = MakeShmCommunicator(*made.host, made.all->control(), timeouts.step);
    made.channel = MakeShmStepChannel(*made.host, timeouts);
    made.description = "shared memory";
  } else {
    const bool leads = made.host->local_rank() == 0;
    std::unique_ptr<Communicator> between;
    std::unique_ptr<StepChannel> between_channel;
    if (leads) {
      between = MakeMpiCommunicator(world.group(), leaders, rank, LeaderTimeout(timeouts.step));
      between_channel = MakeMpiStepChannel(world.group(), leaders, rank, timeouts);
    }
    made.communicator =
        MakeHostCommunicator(*made.host, host_of, std::move(between), *made.all, timeouts.step);
    // The leaders are the first to notice a silent rank 0, and name it.
    Timeouts inside = timeouts;
    if (host_of[rank] != 0) inside.silence = timeouts.silence * 11 / 10;
    made.channel = MakeHostStepChannel(std::move(between_channel),
                                       MakeShmStepChannel(*made.host, inside), rank == 0);
    made.description = absl::StrCat("shared memory, and MPI between ", hosts, " hosts");
  }
  if (options.shm.spin && share) absl::StrAppend(&made.description, ", spinning");
  return made;
}

}  // namespace tandem::parallel
