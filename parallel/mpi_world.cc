#include "parallel/mpi_world.h"

#include <mpi.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <utility>

#include "kernels/base/status_macros.h"
#include "parallel/mpi_communicator.h"

namespace tandem::parallel {
namespace {

// The lowest rank of each rank's host, as numbers from 0 in the order of ranks.
std::vector<int> NumberHosts(const std::vector<int>& lowest_of) {
  std::vector<int> number_of(lowest_of.size());
  int hosts = 0;
  for (int rank = 0; rank < static_cast<int>(lowest_of.size()); ++rank) {
    const int lowest = lowest_of[rank];
    number_of[rank] = lowest == rank ? hosts++ : number_of[lowest];
  }
  return number_of;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Start() {
  int provided = 0;
  TANDEM_RETURN_IF_ERROR(
      FromMpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI start"));
  if (provided < MPI_THREAD_SERIALIZED) {
    return absl::FailedPreconditionError(
        "MPI start: this MPI library offers no serialized threads");
  }
  // Errors come back as codes, so that they can be told in one line.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  std::unique_ptr<MpiWorld> world(new MpiWorld);
  MPI_Comm_rank(MPI_COMM_WORLD, &world->rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &world->size_);
  MPI_Comm host;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
  int lowest = world->rank_;
  MPI_Bcast(&lowest, 1, MPI_INT, 0, host);
  MPI_Comm_free(&host);
  std::vector<int> lowest_of(world->size_);
  MPI_Allgather(&lowest, 1, MPI_INT, lowest_of.data(), 1, MPI_INT, MPI_COMM_WORLD);
  world->host_of_ = NumberHosts(lowest_of);
  return world;
}

MpiWorld::~MpiWorld() { MPI_Finalize(); }

int MpiWorld::local_size() const {
  return static_cast<int>(std::count(host_of_.begin(), host_of_.end(), host_of_[rank_]));
}

std::unique_ptr<Communicator> MpiWorld::MakeCommunicator() const {
  if (size_ == 1) return std::make_unique<SelfCommunicator>();
  std::vector<int> all(size_);
  std::iota(all.begin(), all.end(), 0);
  return MakeMpiCommunicator(std::move(all), rank_, std::chrono::milliseconds(0));
}

void MpiWorld::Abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace tandem::parallel
