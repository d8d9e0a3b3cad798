// The addresses that servers listen on, with an error that says why one is not available.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tandem::server {

// Whether `listen` (HOST:PORT, [IPv6]:PORT or unix:PATH) could be listened on, by doing so for a
// moment; a socket's path is not tried. INVALID_ARGUMENT: it is no address; UNAVAILABLE: it is in
// use or not this machine's. For servers that report neither.
absl::Status ProbeAddress(const std::string& listen);

struct ListeningSocket {
  int fd = -1;  // the caller's
  int port = 0;
};

// `listen` with `port` in place of its port 0; any other address as it is.
std::string WithPort(const std::string& listen, int port);

// Listens on `listen` (HOST:PORT or [IPv6]:PORT), the first address of a name; port 0 takes a free
// one. The address is the socket's alone. Errors as above.
absl::StatusOr<ListeningSocket> ListenOn(const std::string& listen);

}  // namespace tandem::server
