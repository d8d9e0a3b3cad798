#include "runtime/server/listen_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

// Connections that wait to be accepted; the system may allow fewer (net.core.somaxconn).
constexpr int kBacklog = 4096;
// A free port of a name's first address may be in use on its second one.
constexpr int kPortTries = 8;

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> SplitAddress(const std::string& listen, AddressForms forms) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(absl::StrCat("listen address \"", listen, "\": expected ",
                                                   forms == AddressForms::kTcp
                                                       ? "HOST:PORT or [IPv6]:PORT"
                                                       : "HOST:PORT, [IPv6]:PORT or unix:PATH"));
  };
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos || colon == 0) return bad();
  HostPort result{listen.substr(0, colon), listen.substr(colon + 1)};
  if (result.host.front() == '[' && result.host.back() == ']') {
    result.host = result.host.substr(1, result.host.size() - 2);
  } else if (result.host.find(':') != std::string::npos) {
    return bad();
  }
  int port = 0;
  if (!absl::SimpleAtoi(result.port, &port) || port < 0 || port > 65535) return bad();
  return result;
}

absl::Status CannotListen(const std::string& listen, const char* why) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", listen, ": ", why));
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<Addresses> Resolve(const std::string& listen, const HostPort& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) return CannotListen(listen, gai_strerror(error));
  return Addresses(found, &freeaddrinfo);
}

// A listening socket, or -1 with errno.
int Listen(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const int on = 1;
  const int off = 0;
  if (address->sa_family != AF_UNIX) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  // Whatever the system's default is. Where IPv6 has no IPv4 in it, this fails and changes nothing.
  if (address->sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  if (bind(fd, address, size) == 0 && ::listen(fd, kBacklog) == 0) return fd;
  const int failure = errno;
  close(fd);
  errno = failure;
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port
                   : reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

void SetPort(sockaddr* address, int port) {
  const auto value = htons(static_cast<uint16_t>(port));
  if (address->sa_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address)->sin6_port = value;
  } else {
    reinterpret_cast<sockaddr_in*>(address)->sin_port = value;
  }
}

// Sockets for all of a name's addresses that this machine has; none with errno if one is in use.
// Port 0 becomes that of the first socket.
std::vector<int> ListenOnAll(const addrinfo* found) {
  std::vector<int> fds;
  int failure = 0;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    sockaddr_storage address{};
    std::memcpy(&address, one->ai_addr, one->ai_addrlen);
    auto* const generic = reinterpret_cast<sockaddr*>(&address);
    if (!fds.empty()) SetPort(generic, PortOf(fds.front()));
    const int fd = Listen(generic, one->ai_addrlen);
    if (fd >= 0) {
      fds.push_back(fd);
      continue;
    }
    failure = errno;
    if (failure != EADDRINUSE) continue;
    for (const int open : fds) close(open);
    fds.clear();
    break;
  }
  errno = failure;
  return fds;
}

bool StillListens(int fd) {
  int listens = 0;
  socklen_t size = sizeof(listens);
  return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) == 0 && listens != 0;
}

// The socket of a server that was killed stays behind as a path that nobody answers.
void RemoveAbandoned(const sockaddr_un& address, socklen_t size) {
  struct stat status {};
  if (lstat(address.sun_path, &status) != 0 || !S_ISSOCK(status.st_mode)) return;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return;
  const bool abandoned =
      connect(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0 && errno == ECONNREFUSED;
  close(fd);
  if (abandoned) unlink(address.sun_path);
}

}  // namespace

std::string WithPort(const std::string& listen, int port) {
  if (!absl::EndsWith(listen, ":0") || absl::StartsWith(listen, "unix:")) return listen;
  return absl::StrCat(listen.substr(0, listen.size() - 1), port);
}

absl::StatusOr<ListeningSockets> ListeningSockets::Open(const std::string& listen,
                                                        AddressForms forms) {
  if (forms == AddressForms::kTcpOrUnix && absl::StartsWith(listen, "unix:")) {
    return OpenUnix(listen);
  }
  return OpenTcp(listen, forms);
}

absl::StatusOr<ListeningSockets> ListeningSockets::OpenTcp(const std::string& listen,
                                                           AddressForms forms) {
  TANDEM_ASSIGN_OR_RETURN(HostPort address, SplitAddress(listen, forms));
  ListeningSockets result;
  if (address.host == "0.0.0.0" || address.host == "::") {
    // Either means all addresses: IPv4 is part of this socket, and alone where there is no IPv6.
    address.host = "0.0.0.0";
    const absl::StatusOr<Addresses> both = Resolve(listen, {"::", address.port});
    errno = 0;
    if (both.ok()) result.fds_ = ListenOnAll(both->get());
    if (result.fds_.empty() && errno == EADDRINUSE)
      return CannotListen(listen, std::strerror(errno));
  }
  TANDEM_ASSIGN_OR_RETURN(const Addresses found, Resolve(listen, address));
  const bool any_port = absl::EndsWith(listen, ":0");
  for (int tries = any_port ? kPortTries : 1; tries > 0 && result.fds_.empty(); --tries) {
    result.fds_ = ListenOnAll(found.get());
  }
  if (result.fds_.empty()) return CannotListen(listen, std::strerror(errno));
  result.port_ = PortOf(result.fds_.front());
  result.address_ = WithPort(listen, result.port_);
  result.forms_ = forms;
  return result;
}

absl::StatusOr<ListeningSockets> ListeningSockets::OpenUnix(const std::string& listen) {
  // The form of a URI has two more slashes.
  const std::string path = listen.substr(absl::StartsWith(listen, "unix:///") ? 7 : 5);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address \"", listen, "\": found a path of ", path.size(),
                     " bytes, expected 1 to ", sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  constexpr socklen_t kSize = sizeof(address);
  RemoveAbandoned(address, kSize);
  const int fd = Listen(reinterpret_cast<const sockaddr*>(&address), kSize);
  if (fd < 0) return CannotListen(listen, std::strerror(errno));
  ListeningSockets result;
  result.fds_ = {fd};
  result.address_ = listen;
  struct stat status {};
  if (lstat(path.c_str(), &status) == 0) {
    result.path_ = path;
    result.path_device_ = status.st_dev;
    result.path_inode_ = status.st_ino;
  }
  return result;
}

ListeningSockets::ListeningSockets(ListeningSockets&& other) noexcept
    : address_(std::move(other.address_)),
      forms_(other.forms_),
      fds_(std::exchange(other.fds_, {})),
      port_(other.port_),
      path_(std::exchange(other.path_, {})),
      path_device_(other.path_device_),
      path_inode_(other.path_inode_) {}

absl::Status ListeningSockets::Repair() {
  bool listens = !fds_.empty();
  for (const int fd : fds_) listens = listens && StillListens(fd);
  if (listens) return absl::OkStatus();
  Close();
  TANDEM_ASSIGN_OR_RETURN(ListeningSockets opened, Open(address_, forms_));
  fds_ = std::exchange(opened.fds_, {});
  path_ = std::exchange(opened.path_, {});
  path_device_ = opened.path_device_;
  path_inode_ = opened.path_inode_;
  return absl::OkStatus();
}

void ListeningSockets::Close() {
  for (const int fd : fds_) close(fd);
  fds_.clear();
  // Another server may have the path by now.
  struct stat status {};
  if (!path_.empty() && lstat(path_.c_str(), &status) == 0 && status.st_dev == path_device_ &&
      status.st_ino == path_inode_) {
    unlink(path_.c_str());
  }
  path_.clear();
}

}  // namespace tandem::server
