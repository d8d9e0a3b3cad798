// The addresses that servers listen on, and their sockets.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::server {

// `listen` with `port` in place of its port 0; any other address as it is.
std::string WithPort(const std::string& listen, int port);

// What a server accepts as an address.
enum class AddressForms { kTcp, kTcpOrUnix };

// The sockets that listen on one address: one for each address of a host name, all on one port.
// They do not block, and programs that this process starts do not inherit them. Closes them at the
// end, and removes the path of a unix socket.
class ListeningSockets {
 public:
  // Listens on HOST:PORT, [IPv6]:PORT or unix:PATH. Port 0 takes a free one. 0.0.0.0 and [::]
  // listen on IPv4, and on IPv6 where there is some. INVALID_ARGUMENT: it is no address;
  // UNAVAILABLE: it is in use, or not this machine's. A unix socket that nobody listens on any more
  // is replaced.
  static absl::StatusOr<ListeningSockets> Open(const std::string& listen, AddressForms forms);

  ListeningSockets(ListeningSockets&& other) noexcept;
  ListeningSockets& operator=(ListeningSockets&&) = delete;
  ~ListeningSockets() { Close(); }

  const std::vector<int>& fds() const { return fds_; }
  // 0 for a unix socket.
  int port() const { return port_; }

  // Opens the same address again, if one of its sockets has stopped listening.
  absl::Status Repair();

  void Close();

 private:
  ListeningSockets() = default;
  static absl::StatusOr<ListeningSockets> OpenUnix(const std::string& listen);
  static absl::StatusOr<ListeningSockets> OpenTcp(const std::string& listen, AddressForms forms);

  std::string address_;  // with its port
  AddressForms forms_ = AddressForms::kTcpOrUnix;
  std::vector<int> fds_;
  int port_ = 0;
  std::string path_;  // of a unix socket; else empty
  dev_t path_device_ = 0;
  ino_t path_inode_ = 0;
};

}  // namespace tandem::server
