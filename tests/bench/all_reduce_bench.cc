// Run under mpirun: one all-reduce of this project, by shared memory and by MPI, against
// MPI_Allreduce, in turns in one run. Prints medians over rounds of the time of a call.
//   mpirun -np 2 --bind-to core all_reduce_bench [spin|sleep]
// Without the argument waits spin where the host has a CPU for each rank.
#include <mpi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include "parallel/collectives.h"
#include "parallel/mpi_world.h"

using namespace tandem;  // a program of one file

namespace {

using Clock = std::chrono::steady_clock;

double MicrosecondsPerCall(int calls, const std::function<void()>& call) {
  MPI_Barrier(MPI_COMM_WORLD);
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < calls; ++i) call();
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count() / calls;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

parallel::Collectives Make(parallel::ControlGroup& start, const parallel::MpiWorld& world,
                           parallel::CollectivesChoice choice, bool spin) {
  auto made = parallel::MakeCollectives(world, start, world.host_of(),
                                        {.choice = choice, .shm = {.spin = spin}});
  if (!made.ok()) {
    std::fprintf(stderr, "all_reduce_bench: %s\n", std::string(made.status().message()).c_str());
    std::exit(1);
  }
  return *std::move(made);
}

}  // namespace

int main(int argc, char** argv) {
  const auto world = parallel::MpiWorld::Start();
  if (!world.ok() || (*world)->size() < 2) {
    std::fprintf(stderr, "all_reduce_bench: expected two ranks or more under mpirun\n");
    return 1;
  }
  const int rank = (*world)->rank(), size = (*world)->size();
  const bool spin = argc > 1 ? std::strcmp(argv[1], "spin") == 0
                             : size <= static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const auto start = (*world)->MakeControlGroup();
  const auto shm = Make(*start, **world, parallel::CollectivesChoice::kShm, spin);
  const auto mpi = Make(*start, **world, parallel::CollectivesChoice::kMpi, spin);
  std::vector<kernels::LeafRange> owned;
  for (int r = 0; r < size; ++r) owned.push_back({16 * r, 16 * (r + 1)});
  const auto layout = parallel::TreeLayout::Make(16 * size, owned);
  const parallel::ReducePlan shm_plan = shm.communicator->PlanReduce(layout);
  const parallel::ReducePlan mpi_plan = mpi.communicator->PlanReduce(layout);

  if (rank == 0) {
    std::printf("%d ranks, waits %s; microseconds a call, medians\n", size,
                spin ? "spin" : "sleep");
    std::printf("%10s %14s %14s %14s %8s\n", "bytes", "MPI_Allreduce", "shared memory", "over MPI",
                "ratio");
  }
  for (const int kib : {4, 8, 16, 64, 256, 1024}) {
    const int count = kib * 256;
    std::vector<float> mine(layout.node_count(rank) * count, 1.0f), out(count);
    const int calls = spin ? std::max(20, 8000 / kib) : std::max(5, 400 / kib);
    std::vector<double> theirs, ours, ours_mpi;
    for (int round = 0; round < 15; ++round) {
      theirs.push_back(MicrosecondsPerCall(calls, [&] {
        MPI_Allreduce(mine.data(), out.data(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
      }));
      const auto reduce = [&](parallel::Communicator& communicator, parallel::ReducePlan plan) {
        if (!communicator.AllReduce(plan, mine.data(), count, out.data()).ok()) std::abort();
      };
      ours.push_back(MicrosecondsPerCall(calls, [&] { reduce(*shm.communicator, shm_plan); }));
      ours_mpi.push_back(MicrosecondsPerCall(calls, [&] { reduce(*mpi.communicator, mpi_plan); }));
    }
    if (rank == 0) {
      std::printf("%10d %14.2f %14.2f %14.2f %8.2f\n", kib << 10, Median(theirs), Median(ours),
                  Median(ours_mpi), Median(theirs) / Median(ours));
    }
  }
  return 0;
}
