// Rank 0 watches the other ranks of its host. The kernel reports at once when one of them ends, so
// open streams fail with that rank's name long before a collective times out. mpirun or the step
// timeout notice when a rank of another host dies.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "runtime/rank/place.h"

namespace tandem::rank {

class PeerWatch {
 public:
  // Called once, on the watch's thread, with UNAVAILABLE that names the first rank that ended.
  using OnEnd = std::function<void(const absl::Status&)>;

  // Watches the ranks other than 0 that are in rank 0's pid namespace. Watches none where the
  // kernel has no pidfd (before Linux 5.3).
  PeerWatch(const std::vector<RankPlace>& places, OnEnd on_end);
  // To be destroyed before the other ranks are asked to end.
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
