// `GET /metrics` over HTTP, for Prometheus: libmicrohttpd with one thread, which sleeps in epoll
// between requests. Other paths get 404, other methods 405.
//
// A client costs the server at most one connection of a few KiB: there are at most kConnections,
// and each is closed after kSilence seconds without a byte.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

struct MHD_Daemon;

namespace tandem::server {

class MetricsServer {
 public:
  static constexpr unsigned kConnections = 16;
  static constexpr unsigned kSilence = 10;  // seconds

  // Listens on HOST:PORT or [IPv6]:PORT; errors as ListenOn. `text`, in Prometheus' text format,
  // is called on the server's thread.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& listen,
                                                              std::function<std::string()> text);

  // Stops.
  ~MetricsServer();

  int port() const { return port_; }

  // Closes the port and what is connected, at once; `text` is not called any more. Idempotent, from
  // one thread.
  void Stop();

  std::string Text() const { return text_(); }

 private:
  explicit MetricsServer(std::function<std::string()> text) : text_(std::move(text)) {}

  const std::function<std::string()> text_;
  int port_ = 0;
  MHD_Daemon* daemon_ = nullptr;
};

}  // namespace tandem::server
