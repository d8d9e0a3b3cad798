// `GET /metrics` over HTTP, for Prometheus: libmicrohttpd with one thread, which sleeps in epoll
// between requests. Other paths get 404, other methods 405.
//
// A connection costs a few KiB. There are at most kConnections, kPerPeer of them from one address
// (ConnectionListener). Each is closed after kSilence without a byte. When there are too many,
// those that are older than kSpared are closed, however slowly they send.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/server/connection_listener.h"

struct MHD_Connection;
struct MHD_Daemon;

namespace tandem::server {

struct MetricsLimits {
  ConnectionLimits connections{.all = 64, .per_peer = 16};
  std::chrono::seconds silence{10};
  std::chrono::milliseconds spared{20'000};
};

class MetricsServer {
 public:
  // Listens on HOST:PORT or [IPv6]:PORT; errors as ConnectionListener::Open. `text`, in Prometheus'
  // text format, is called on the server's thread.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(const std::string& listen,
                                                              std::function<std::string()> text,
                                                              const MetricsLimits& limits = {});

  // Stops.
  ~MetricsServer();

  int port() const { return listener_->port(); }

  // Closes the port and what is connected, at once; `text` is not called any more. Idempotent, from
  // one thread.
  void Stop();

  std::string Text() const { return text_(); }

  // For the HTTP library: a connection begins, or is about to be closed.
  void Began(MHD_Connection* connection);
  void Ends(MHD_Connection* connection);

 private:
  using Clock = std::chrono::steady_clock;
  struct Connection {
    int fd = -1;
    Clock::time_point begin;
  };

  MetricsServer(std::function<std::string()> text, std::chrono::milliseconds spared)
      : text_(std::move(text)), spared_(spared) {}
  void EndOldConnections();

  const std::function<std::string()> text_;
  const std::chrono::milliseconds spared_;
  std::unique_ptr<ConnectionListener> listener_;
  MHD_Daemon* daemon_ = nullptr;
  std::mutex mutex_;
  std::map<MHD_Connection*, Connection> connections_;  // their descriptors are open
};

}  // namespace tandem::server
