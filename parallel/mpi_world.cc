#include "parallel/mpi_world.h"

#include <mpi.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "kernels/base/status_macros.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_control_group.h"
#include "parallel/mpi_group.h"

namespace tandem::parallel {
namespace {

// Hosts by any numbers, as numbers from 0 in the order of their lowest ranks.
std::vector<int> NumberHosts(const std::vector<int>& hosts) {
  std::map<int, int> number_of;
  std::vector<int> numbers;
  for (const int host : hosts) {
    numbers.push_back(number_of.emplace(host, static_cast<int>(number_of.size())).first->second);
  }
  return numbers;
}

// Limits a wait inside MPI, which has no deadline of its own: from constructor to destructor.
class Watchdog {
 public:
  Watchdog(std::chrono::milliseconds limit, const MpiWorld::GiveUp& give_up, const char* what) {
    if (limit.count() == 0) return;
    thread_ = std::thread([this, limit, &give_up, what] {
      std::unique_lock lock(mutex_);
      if (changed_.wait_for(lock, limit, [this] { return over_; })) return;
      give_up(absl::DeadlineExceededError(absl::StrCat(
          what, ": a rank has not come within ", absl::FormatDuration(absl::FromChrono(limit)))));
    });
  }
  ~Watchdog() {
    if (!thread_.joinable()) return;
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace

MpiWorld::MpiWorld() : group_(std::make_unique<MpiGroup>()) {}

absl::StatusOr<std::unique_ptr<MpiWorld>> MpiWorld::Start(std::chrono::milliseconds patience,
                                                          GiveUp give_up) {
  const Watchdog watchdog(patience, give_up, "MPI start");
  int provided = 0;
  TANDEM_RETURN_IF_ERROR(
      FromMpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI start"));
  if (provided < MPI_THREAD_SERIALIZED) {
    return absl::FailedPreconditionError(
        "MPI start: this MPI library offers no serialized threads");
  }
  // Errors come back as codes, so that they can be reported in one line.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  std::unique_ptr<MpiWorld> world(new MpiWorld);
  world->group_->patience = world->limit_ = patience;
  world->give_up_ = give_up;
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

std::unique_ptr<MpiWorld> MpiWorld::Split(const std::vector<int>& part_of) const {
  const Watchdog watchdog(limit_, give_up_, "MPI parts");
  std::unique_ptr<MpiWorld> part(new MpiWorld);
  part->group_->patience = group_->patience;
  MPI_Comm_split(group_->communicator, part_of[rank_], rank_, &part->group_->communicator);
  MPI_Comm_set_errhandler(part->group_->communicator, MPI_ERRORS_RETURN);
  std::vector<int> hosts;
  for (int rank = 0; rank < size_; ++rank) {
    if (part_of[rank] != part_of[rank_]) continue;
    if (rank == rank_) part->rank_ = static_cast<int>(hosts.size());
    hosts.push_back(host_of_[rank]);
  }
  part->size_ = static_cast<int>(hosts.size());
  part->host_of_ = NumberHosts(hosts);
  return part;
}

MpiWorld::~MpiWorld() {
  if (group_->communicator == MPI_COMM_WORLD) {
    const Watchdog watchdog(limit_, give_up_, "MPI end");
    MPI_Finalize();
  } else {
    MPI_Comm_free(&group_->communicator);
  }
}

int MpiWorld::local_size() const {
  return static_cast<int>(std::count(host_of_.begin(), host_of_.end(), host_of_[rank_]));
}

std::unique_ptr<ControlGroup> MpiWorld::MakeControlGroup() const {
  if (size_ == 1) return std::make_unique<SelfGroup>();
  std::vector<int> all(size_);
  std::iota(all.begin(), all.end(), 0);
  return MakeMpiControlGroup(*group_, std::move(all), rank_, group_->patience);
}

void MpiWorld::SetPatience(std::chrono::milliseconds patience) { group_->patience = patience; }

void MpiWorld::Abort(int exit_code) {
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::abort();  // MPI_Abort does not return
}

}  // namespace tandem::parallel
