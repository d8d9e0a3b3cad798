#include "runtime/rank/peer_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::rank {
PeerWatch::PeerWatch(const std::vector<RankPlace>& places, OnEnd on_end)
    : on_end_(std::move(on_end)) {
  for (size_t rank = 1; rank < places.size(); ++rank) {
    const RankPlace& place = places[rank];
    if (place.pid_namespace != places[0].pid_namespace) continue;
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, place.pid, 0));
    if (fd >= 0) peers_.push_back({static_cast<int>(rank), fd, place.host});
  }
  if (peers_.empty()) return;
  wake_fd_ = eventfd(0, EFD_CLOEXEC);
  thread_ = std::thread(&PeerWatch::Watch, this);
}

PeerWatch::~PeerWatch() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_fd_, &one, sizeof(one));
    thread_.join();
  }
  for (const Peer& peer : peers_) close(peer.fd);
  if (wake_fd_ >= 0) close(wake_fd_);
}

void PeerWatch::Watch() {
  std::vector<pollfd> fds = {{wake_fd_, POLLIN, 0}};
  for (const Peer& peer : peers_) fds.push_back({peer.fd, POLLIN, 0});
  while (poll(fds.data(), fds.size(), -1) < 0) {
  }
  if (fds[0].revents != 0) return;
  for (size_t i = 0; i < peers_.size(); ++i) {
    if (fds[i + 1].revents == 0) continue;
    on_end_(
        absl::UnavailableError(absl::StrCat("rank ", peers_[i].rank, " on ", peers_[i].host,
                                            " has died; retry when the server is ready again")));
    return;
  }
}

}  // namespace tandem::rank
