// Rank 0's eye on the other ranks of its host: told by the kernel when one ends, it can end the
// open streams with the rank's name long before a collective misses it. Ranks of other hosts are
// missed by mpirun or by the step timeout.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/control_group.h"

namespace tandem::rank {

// Where a rank runs.
struct RankPlace {
  std::string host;
  std::string pid_namespace;  // with the kernel's boot id: whether its pid means anything here
  pid_t pid = 0;
};

// Of all ranks, by rank. Collective.
absl::StatusOr<std::vector<RankPlace>> GatherPlaces(parallel::ControlGroup& communicator);

class PeerWatch {
 public:
  // Called once, on a thread of the watch, with UNAVAILABLE that names the first rank that ended.
  using OnEnd = std::function<void(const absl::Status&)>;

  // Watches the ranks other than 0 that are processes of this kernel's namespace. Where the kernel
  // has no pidfd (before Linux 5.3) nothing is watched.
  PeerWatch(const std::vector<RankPlace>& places, OnEnd on_end);
  // Before the ranks are told to end.
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

 private:
  struct Peer {
    int rank;
    int fd;
    std::string host;
  };
  void Watch();

  const OnEnd on_end_;
  std::vector<Peer> peers_;
  int wake_fd_ = -1;
  std::thread thread_;
};

}  // namespace tandem::rank
