#include "runtime/server/listen_address.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

constexpr int kBacklog = 16;

struct HostPort {
  std::string host;
  std::string port;
};

// `forms` are the allowed ones, for the error.
absl::StatusOr<HostPort> SplitAddress(const std::string& listen, const char* forms) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address \"", listen, "\": expected ", forms));
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
int Listen(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0) return fd;
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

}  // namespace

absl::Status ProbeAddress(const std::string& listen) {
  if (listen.rfind("unix:", 0) == 0) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const HostPort address,
                          SplitAddress(listen, "HOST:PORT, [IPv6]:PORT or unix:PATH"));
  TANDEM_ASSIGN_OR_RETURN(const Addresses found, Resolve(listen, address));
  int failure = 0;
  bool listened = false;
  for (const addrinfo* one = found.get(); one != nullptr; one = one->ai_next) {
    const int fd = Listen(*one);
    if (fd >= 0) {
      listened = true;
      close(fd);
      continue;
    }
    failure = errno;
    // One of a name's addresses is enough to refuse.
    if (failure == EADDRINUSE) return CannotListen(listen, std::strerror(failure));
  }
  return listened ? absl::OkStatus() : CannotListen(listen, std::strerror(failure));
}

std::string WithPort(const std::string& listen, int port) {
  if (!absl::EndsWith(listen, ":0") || absl::StartsWith(listen, "unix:")) return listen;
  return absl::StrCat(listen.substr(0, listen.size() - 1), port);
}

absl::StatusOr<ListeningSocket> ListenOn(const std::string& listen) {
  TANDEM_ASSIGN_OR_RETURN(const HostPort address, SplitAddress(listen, "HOST:PORT or [IPv6]:PORT"));
  TANDEM_ASSIGN_OR_RETURN(const Addresses found, Resolve(listen, address));
  const int fd = Listen(*found);
  if (fd < 0) return CannotListen(listen, std::strerror(errno));
  return ListeningSocket{.fd = fd, .port = PortOf(fd)};
}

}  // namespace tandem::server
