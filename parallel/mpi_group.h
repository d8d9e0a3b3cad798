// The ranks of MPI that make one world: all, or a part of them. For the sources that call MPI.
#pragma once

#include <mpi.h>

#include <chrono>

namespace tandem::parallel {

struct MpiGroup {
  MPI_Comm communicator = MPI_COMM_WORLD;
  std::chrono::milliseconds patience{0};  // of what is not of a step; zero: for ever
};

}  // namespace tandem::parallel
