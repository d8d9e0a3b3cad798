// The ranks of MPI that make one world: all, or a part of them. For the sources that call MPI.
#pragma once

#include <mpi.h>

namespace tandem::parallel {

struct MpiGroup {
  MPI_Comm communicator = MPI_COMM_WORLD;
};

}  // namespace tandem::parallel
