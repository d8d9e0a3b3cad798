#include "runtime/server/connection_table.h"

#include <netinet/in.h>
#include <sys/stat.h>

#include <cstring>
#include <utility>

namespace tandem::server {
namespace {

// Under a flood of connections that are all refused, comparing descriptors takes at most one part
// in this many of a thread's time.
constexpr int kCheckShare = 8;

std::string Bytes(const void* data, size_t size) {
  return std::string(static_cast<const char*>(data), size);
}

std::string Ipv4Key(uint32_t address) {
  const bool loopback = (ntohl(address) >> 24) == 127;
  return loopback ? "" : Bytes(&address, sizeof(address));
}

}  // namespace

std::string PeerKey(const sockaddr_storage& peer) {
  constexpr size_t kNetworkBytes = 8;
  if (peer.ss_family == AF_INET) {
    return Ipv4Key(reinterpret_cast<const sockaddr_in*>(&peer)->sin_addr.s_addr);
  }
  if (peer.ss_family != AF_INET6) return "";
  const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(&peer)->sin6_addr;
  if (IN6_IS_ADDR_LOOPBACK(&address)) return "";
  if (!IN6_IS_ADDR_V4MAPPED(&address)) return Bytes(address.s6_addr, kNetworkBytes);
  uint32_t ipv4;
  std::memcpy(&ipv4, address.s6_addr + 12, sizeof(ipv4));
  return Ipv4Key(ipv4);
}

ConnectionTable::Verdict ConnectionTable::Add(int fd, const sockaddr_storage& peer) {
  std::string key = PeerKey(peer);
  std::lock_guard lock(mutex_);
  // The system gives out a descriptor only after it was closed.
  if (const auto old = entries_.find(fd); old != entries_.end()) Erase(old);
  if (Full(key)) EraseClosedIfAffordable();
  if (entries_.size() >= static_cast<size_t>(limits_.all)) return Verdict::kTooMany;
  if (Full(key)) return Verdict::kTooManyOfPeer;
  struct stat status {};
  if (fstat(fd, &status) != 0) return Verdict::kTaken;  // closed already: nothing to count
  if (!key.empty()) ++of_peer_[key];
  entries_.emplace(fd, Entry{status.st_dev, status.st_ino, std::move(key)});
  return Verdict::kTaken;
}

int ConnectionTable::Open() {
  std::lock_guard lock(mutex_);
  EraseClosed();
  return static_cast<int>(entries_.size());
}

bool ConnectionTable::Full(const std::string& peer) const {
  if (entries_.size() >= static_cast<size_t>(limits_.all)) return true;
  const auto found = of_peer_.find(peer);
  return found != of_peer_.end() && found->second >= limits_.per_peer;
}

void ConnectionTable::Erase(std::unordered_map<int, Entry>::iterator entry) {
  if (const auto peer = of_peer_.find(entry->second.peer); peer != of_peer_.end()) {
    if (--peer->second == 0) of_peer_.erase(peer);
  }
  entries_.erase(entry);
}

void ConnectionTable::EraseClosed() {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    struct stat now {};
    const bool same = fstat(entry->first, &now) == 0 && now.st_dev == entry->second.device &&
                      now.st_ino == entry->second.inode;
    const auto checked = entry++;
    if (!same) Erase(checked);
  }
}

void ConnectionTable::EraseClosedIfAffordable() {
  const Clock::time_point begin = Clock::now();
  if (begin < next_check_) return;
  EraseClosed();
  const Clock::time_point end = Clock::now();
  next_check_ = end + (end - begin) * (kCheckShare - 1);
}

}  // namespace tandem::server
