// Run under mpirun: mpi_collectives auto|shm|mpi [HOSTS [spin]]. Every collective against what one
// process computes alone. With HOSTS the ranks count as those of so many hosts, in turns. Exits
// non-zero with lines that say what differs.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "parallel/collectives.h"
#include "parallel/mpi_world.h"
#include "tests/parallel/check_collectives.h"

using namespace tandem;  // a program of one file

int main(int argc, char** argv) {
  const std::string choice = argc > 1 ? argv[1] : "auto";
  auto world = parallel::MpiWorld::Start();
  if (!world.ok()) return 1;
  std::vector<int> host_of = (*world)->host_of();
  const int hosts = argc > 2 ? std::atoi(argv[2]) : 1;
  for (size_t r = 0; hosts > 1 && r < host_of.size(); ++r) host_of[r] = static_cast<int>(r) % hosts;
  const auto start = (*world)->MakeControlGroup();
  parallel::Collectives collectives;
  if (start->size() > 1) {
    parallel::CollectivesOptions options;
    if (choice == "shm") options.choice = parallel::CollectivesChoice::kShm;
    if (choice == "mpi") options.choice = parallel::CollectivesChoice::kMpi;
    options.shm = {.slot_bytes = 64 << 10, .spin = argc > 3};  // messages of many pieces
    auto made = parallel::MakeCollectives(**world, *start, host_of, options);
    if (!made.ok()) {
      std::fprintf(stderr, "mpi_collectives: %s\n", std::string(made.status().message()).c_str());
      return 1;
    }
    collectives = *std::move(made);
  } else {
    collectives.communicator = std::make_unique<parallel::SelfCommunicator>();
  }
  const std::vector<std::string> problems =
      parallel::CollectivesCheck(*collectives.communicator, collectives.channel.get()).Run();
  for (const std::string& line : problems) {
    std::fprintf(stderr, "mpi_collectives: %s (%s)\n", line.c_str(),
                 collectives.description.c_str());
  }
  return problems.empty() ? 0 : 1;
}
