// Run under mpirun with two ranks: rank 1 does not come, and rank 0 names it and ends the world.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "parallel/mpi_world.h"

using namespace tandem;  // a program of one file

int main() {
  const auto world = parallel::MpiWorld::Start();
  if (!world.ok()) return 1;
  const auto communicator = (*world)->MakeControlGroup();
  if ((*world)->rank() == 1) pause();
  (*world)->SetPatience(std::chrono::milliseconds(1500));
  const auto all = communicator->AllGatherBytes("here");
  std::printf("%d: %s\n", static_cast<int>(all.status().code()),
              std::string(all.status().message()).c_str());
  std::fflush(stdout);
  (*world)->Abort(70);
}
