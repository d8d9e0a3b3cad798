// The ranks of MPI that make one world: all or some of them. For the sources that call MPI.
#pragma once

#include <mpi.h>

#include <chrono>

namespace tandem::parallel {

struct MpiGroup {
  MPI_Comm communicator = MPI_COMM_WORLD;
  std::chrono::milliseconds patience{0};  // of exchanges outside of steps; zero: no limit
};

}  // namespace tandem::parallel
