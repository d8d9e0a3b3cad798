#include "runtime/batch/link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"

namespace tandem::batch {
namespace {

constexpr size_t kLongestMessage = size_t{1} << 30;  // a row with its tokens
constexpr size_t kLongestFirst = 4096;
constexpr int kConnectMs = 3000;  // to one address
constexpr int kFirstSeconds = 10;
constexpr int kListenQueue = 256;

// A host that has gone is to be missed within seconds, not when TCP gives up.
void WatchPeer(int fd) {
  const auto set = [fd](int level, int name, int value) {
    setsockopt(fd, level, name, &value, sizeof(value));
  };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 5);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set(IPPROTO_TCP, TCP_KEEPCNT, 5);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 15000);
}

// A connected socket, or -1 with errno.
int ConnectTo(const std::string& address, const std::string& port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), port.c_str(), &hints, &found) != 0) {
    errno = EADDRNOTAVAIL;
    return -1;
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  int error = fd < 0 ? errno : 0;
  if (error == 0 && connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
    error = errno;
    pollfd ready{fd, POLLOUT, 0};
    if (error == EINPROGRESS) {
      socklen_t size = sizeof(error);
      if (poll(&ready, 1, kConnectMs) != 1) {
        error = ETIMEDOUT;
      } else {
        getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
      }
    }
  }
  freeaddrinfo(found);
  if (error != 0) {
    if (fd >= 0) close(fd);
    errno = error;
    return -1;
  }
  fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  return fd;
}

// Addresses by which other hosts may reach this one, the older protocol's first.
std::vector<std::string> OwnAddresses() {
  std::vector<std::string> four, six;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return four;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0 ||
        (one->ifa_flags & IFF_LOOPBACK) != 0) {
      continue;
    }
    char text[INET6_ADDRSTRLEN];
    if (one->ifa_addr->sa_family == AF_INET) {
      const auto* address = reinterpret_cast<const sockaddr_in*>(one->ifa_addr);
      if (inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text)) != nullptr) {
        four.emplace_back(text);
      }
    } else if (one->ifa_addr->sa_family == AF_INET6) {
      const auto* address = reinterpret_cast<const sockaddr_in6*>(one->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) continue;  // means nothing elsewhere
      if (inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text)) != nullptr) {
        six.emplace_back(text);
      }
    }
  }
  freeifaddrs(all);
  four.insert(four.end(), six.begin(), six.end());
  return four;
}

// A listening socket on a port of the kernel's choice; -1 with errno.
int ListenOn(int family, bool for_other_hosts, int* port) {
  sockaddr_storage storage{};
  socklen_t size = 0;
  if (family == AF_INET6) {
    auto* address = reinterpret_cast<sockaddr_in6*>(&storage);
    address->sin6_family = AF_INET6;
    address->sin6_addr = in6addr_any;
    size = sizeof(*address);
  } else {
    auto* address = reinterpret_cast<sockaddr_in*>(&storage);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(for_other_hosts ? INADDR_ANY : INADDR_LOOPBACK);
    size = sizeof(*address);
  }
  const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int both = 0;
  if (family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof(both));
  auto* address = reinterpret_cast<sockaddr*>(&storage);
  if (bind(fd, address, size) != 0 || listen(fd, kListenQueue) != 0 ||
      getsockname(fd, address, &size) != 0) {
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
  }
  // The port is at the same place in both kinds.
  *port = ntohs(reinterpret_cast<sockaddr_in*>(&storage)->sin_port);
  return fd;
}

}  // namespace

LineSocket::LineSocket(int fd) : fd_(fd) { WatchPeer(fd); }

LineSocket::~LineSocket() { close(fd_); }

absl::StatusOr<std::unique_ptr<LineSocket>> LineSocket::Connect(const std::string& coordinator,
                                                                int replica) {
  const std::vector<std::string> parts = absl::StrSplit(coordinator, '@');
  std::string tried;
  for (size_t i = 2; i < parts.size(); ++i) {
    const int fd = ConnectTo(parts[i], parts[1]);
    if (fd < 0) {
      absl::StrAppend(&tried, i > 2 ? ", " : "", parts[i], " ", std::strerror(errno));
      continue;
    }
    auto link = std::make_unique<LineSocket>(fd);
    TANDEM_RETURN_IF_ERROR(link->Send({{"secret", parts[0]}, {"replica", replica}}));
    return link;
  }
  return absl::UnavailableError(
      absl::StrCat("the batch job's coordinator is not reached: ", tried));
}

absl::Status LineSocket::Send(const nlohmann::json& message) {
  const std::string text =
      message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  std::lock_guard lock(mutex_);
  for (size_t done = 0; done < text.size();) {
    const ssize_t count = send(fd_, text.data() + done, text.size() - done, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::UnavailableError("the other end of the batch job has gone");
    done += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

std::optional<nlohmann::json> LineSocket::Receive() { return ReceiveUpTo(kLongestMessage); }

std::optional<nlohmann::json> LineSocket::ReceiveFirst() {
  timeval wait{kFirstSeconds, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  std::optional<nlohmann::json> first = ReceiveUpTo(kLongestFirst);
  wait = {0, 0};
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
  return first;
}

std::optional<nlohmann::json> LineSocket::ReceiveUpTo(size_t bytes) {
  char buffer[1 << 16];
  while (true) {
    const size_t end = partial_.find('\n');
    if (end != std::string::npos) {
      nlohmann::json message = nlohmann::json::parse(partial_.substr(0, end), nullptr, false);
      partial_.erase(0, end + 1);
      if (!message.is_object()) return std::nullopt;
      return message;
    }
    if (partial_.size() > bytes) return std::nullopt;
    const ssize_t count = recv(fd_, buffer, sizeof(buffer), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return std::nullopt;
    partial_.append(buffer, static_cast<size_t>(count));
  }
}

void LineSocket::Shutdown() { shutdown(fd_, SHUT_RDWR); }

absl::StatusOr<std::unique_ptr<LinkListener>> LinkListener::Open(bool for_other_hosts) {
  const std::vector<std::string> addresses =
      for_other_hosts ? OwnAddresses() : std::vector<std::string>{"127.0.0.1"};
  if (addresses.empty()) {
    return absl::UnavailableError("this host has no address at which other hosts could reach it");
  }
  int port = 0;
  int fd = for_other_hosts ? ListenOn(AF_INET6, for_other_hosts, &port) : -1;
  if (fd < 0) fd = ListenOn(AF_INET, for_other_hosts, &port);
  if (fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for the batch job's replicas: ", std::strerror(errno)));
  }
  char random[16];
  if (getrandom(random, sizeof(random), 0) != sizeof(random)) {
    close(fd);
    return absl::InternalError("the kernel has no random numbers");
  }
  const std::string secret = absl::BytesToHexString(absl::string_view(random, sizeof(random)));
  return std::unique_ptr<LinkListener>(new LinkListener(
      fd, secret, absl::StrCat(secret, "@", port, "@", absl::StrJoin(addresses, "@"))));
}

LinkListener::~LinkListener() { close(fd_); }

std::unique_ptr<LineSocket> LinkListener::Accept() const {
  for (;;) {
    const int fd = accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0) return std::make_unique<LineSocket>(fd);
    // One that has hung up already is no reason to leave.
    if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) return nullptr;
  }
}

std::optional<int> LinkListener::ReplicaOf(const nlohmann::json& first) const {
  const auto secret = first.find("secret");
  const auto replica = first.find("replica");
  if (secret == first.end() || *secret != secret_) return std::nullopt;
  if (replica == first.end() || !replica->is_number_integer()) return std::nullopt;
  return replica->get<int>();
}

void LinkListener::Shutdown() const { shutdown(fd_, SHUT_RDWR); }

absl::StatusOr<std::unique_ptr<LinkFeed>> LinkFeed::Start(const std::string& coordinator,
                                                          int replica, const RowReader& reader) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<LineSocket> socket,
                          LineSocket::Connect(coordinator, replica));
  std::unique_ptr<LinkFeed> feed(new LinkFeed(std::move(socket), reader));
  const std::optional<nlohmann::json> first = feed->socket_->ReceiveFirst();
  if (!first.has_value()) return absl::UnavailableError("the batch job's coordinator has gone");
  feed->context_ = first->value("context", int64_t{0});
  feed->thread_ = std::thread([raw = feed.get()] { raw->ReceiveAll(); });
  return feed;
}

LinkFeed::~LinkFeed() {
  socket_->Shutdown();
  if (thread_.joinable()) thread_.join();
}

void LinkFeed::ReceiveAll() {
  while (std::optional<nlohmann::json> message = socket_->Receive()) {
    std::optional<Assignment> row;
    if (message->contains("text")) {
      std::string id;
      absl::StatusOr<BatchRow> read =
          reader_.Read(message->value("text", ""), message->value("line", int64_t{0}), &id);
      // The coordinator has read it before: only another model could differ.
      if (!read.ok()) break;
      row.emplace();
      row->row = *std::move(read);
      row->tokens = (*message)["tokens"].get<std::vector<std::vector<int32_t>>>();
    }
    std::lock_guard lock(mutex_);
    if (row.has_value()) {
      --wanted_;
      ++open_;
      rows_.push(*std::move(row));
    }
    if (message->contains("end")) end_ = true;
    if (message->contains("stop")) stop_ = true;
    woken_ = true;
    changed_.notify_all();
  }
  std::lock_guard lock(mutex_);
  lost_ = true;
  woken_ = true;
  changed_.notify_all();
}

void LinkFeed::KeepAhead(int64_t rows) {
  std::lock_guard lock(mutex_);
  const int64_t more = rows - open_ - wanted_;
  if (more <= 0 || end_ || stop_) return;
  wanted_ += more;
  outbox_.push_back({{"want", more}});
}

void LinkFeed::TellSteps(int64_t steps) {
  std::lock_guard lock(mutex_);
  outbox_.push_back({{"steps", steps}});
}

std::optional<Assignment> LinkFeed::Next() {
  std::lock_guard lock(mutex_);
  if (rows_.empty()) return std::nullopt;
  Assignment next = std::move(rows_.front());
  rows_.pop();
  return next;
}

void LinkFeed::AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) {
  std::lock_guard lock(mutex_);
  outbox_.push_back({{"k", key}, {"c", choice}, {"t", tokens}});
}

void LinkFeed::Finish(uint64_t key, bool failed, std::string line) {
  std::lock_guard lock(mutex_);
  outbox_.push_back({{"k", key}, {"failed", failed}, {"line", std::move(line)}});
  --open_;
  woken_ = true;
  changed_.notify_all();
}

void LinkFeed::Wait(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, longest, [this] { return woken_; });
  woken_ = false;
}

absl::Status LinkFeed::Flush(bool) {
  std::vector<nlohmann::json> messages;
  {
    std::lock_guard lock(mutex_);
    messages.swap(outbox_);
  }
  for (const nlohmann::json& message : messages) TANDEM_RETURN_IF_ERROR(socket_->Send(message));
  return absl::OkStatus();
}

bool LinkFeed::all_done() const {
  std::lock_guard lock(mutex_);
  return end_ && open_ == 0;
}

std::string LinkFeed::stop_reason() const {
  std::lock_guard lock(mutex_);
  if (stop_) return "the job stops";
  return lost_ && !end_ ? "the coordinator has gone" : "";
}

}  // namespace tandem::batch
