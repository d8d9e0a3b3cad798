// A gRPC server with the limits and liveness settings that Tandem promises, on one address.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "runtime/server/grpc_port.h"
#include "runtime/server/tls_files.h"

namespace tandem::server {

struct GrpcServerOptions {
  // HOST:PORT, [IPv6]:PORT or unix:PATH. Port 0 takes a free one.
  std::string listen = "127.0.0.1:50051";
  TlsFiles tls;
  // Connections beyond these are closed at once. They shrink with RLIMIT_NOFILE.
  ConnectionLimits connections;
  // A connection that has not finished TLS and sent HTTP/2 settings after this time is closed.
  std::chrono::milliseconds handshake_timeout{10'000};
  // The longest request. A prompt of 131,072 tokens takes under 1 MiB.
  int max_receive_bytes = 4 << 20;
  // Streams of one connection; further streams wait in the client.
  int max_streams_per_connection = 4096;
  // A connection that is silent for this long is pinged, and closed if no answer comes within the
  // timeout.
  std::chrono::milliseconds keepalive_time{60'000};
  std::chrono::milliseconds keepalive_timeout{20'000};
  // A client that pings more often than this, without data in between, is disconnected.
  std::chrono::milliseconds min_client_ping_interval{5'000};
  // A connection that is this old, or without a call for this long, is asked to close, so that
  // clients spread over new servers. Its streams may go on for the grace period. Zero: never.
  std::chrono::milliseconds max_connection_age{0};
  std::chrono::milliseconds max_connection_age_grace{60'000};
  std::chrono::milliseconds max_connection_idle{300'000};
};

class GrpcServer {
 public:
  // Listens at once. UNAVAILABLE for a port that is in use and for an address that this machine
  // does not have; INVALID_ARGUMENT for text that is not an address; each message holds the
  // address. Also errors of MakeServerCredentials. `services` must outlive the server. Registers
  // server reflection, too.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, const std::vector<grpc::Service*>& services);

  ~GrpcServer();

  // The port that is listened on; 0 for a unix socket.
  int port() const { return port_->port(); }

  // Connections that are open now.
  int open_connections() { return port_->open_connections(); }

  // Takes no new calls, waits for the open ones, and ends those that are left at `deadline`.
  // Returns when no call is left. Calling it again does nothing.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  GrpcServer() = default;

  std::shared_ptr<grpc::ServerCredentials> credentials_;  // before what uses them
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<GrpcPort> port_;
};

}  // namespace tandem::server
