// Which of the connections that a listener has handed out are still open: in all, and per peer.
//
// The libraries that serve connections (gRPC, libmicrohttpd) own their sockets and do not say when
// they close one. A descriptor that is accepted again was closed before, so most entries are
// replaced by that alone. Before a connection is refused, and when somebody asks for the number,
// each descriptor is compared with the socket that it was (device and inode of fstat). So nothing
// is polled, and no second descriptor is held for a connection.
#pragma once

#include <sys/socket.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>

namespace tandem::server {

// What a limit per peer counts: an IPv4 address, or the /64 network of an IPv6 address, because one
// host may use all addresses of it. Empty for loopback and unix sockets, which have no such limit:
// behind them is a proxy or a user of this host.
std::string PeerKey(const sockaddr_storage& peer);

struct ConnectionLimits {
  int all = 4096;
  int per_peer = 1024;
};

class ConnectionTable {
 public:
  enum class Verdict { kTaken, kTooMany, kTooManyOfPeer };

  explicit ConnectionTable(ConnectionLimits limits) : limits_(limits) {}

  // Counts the connection `fd`, which was accepted a moment ago and is still the caller's, unless
  // that exceeds a limit.
  Verdict Add(int fd, const sockaddr_storage& peer);

  // How many are open now.
  int Open();

 private:
  using Clock = std::chrono::steady_clock;

  struct Entry {
    dev_t device = 0;
    ino_t inode = 0;
    std::string peer;
  };

  bool Full(const std::string& peer) const;
  void Erase(std::unordered_map<int, Entry>::iterator entry);
  void EraseClosed();
  void EraseClosedIfAffordable();

  const ConnectionLimits limits_;
  std::mutex mutex_;
  std::unordered_map<int, Entry> entries_;  // by descriptor
  std::unordered_map<std::string, int> of_peer_;
  Clock::time_point next_check_;
};

}  // namespace tandem::server
