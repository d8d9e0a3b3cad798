// A port whose connections ConnectionListener accepts and gRPC serves.
//
//   auto port = GrpcPort::Open(options);            // the address is taken; connections wait
//   (*port)->AddTo(builder, credentials);
//   server = builder.BuildAndStart();
//   (*port)->Start(user_timeout);
//   ...
//   (*port)->Stop();                                // before server->Shutdown
#pragma once

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "runtime/server/connection_listener.h"

namespace tandem::server {

class GrpcPort {
 public:
  // Errors as ConnectionListener::Open.
  static absl::StatusOr<std::unique_ptr<GrpcPort>> Open(const ListenerOptions& options);

  // The port's connections use `credentials`.
  void AddTo(grpc::ServerBuilder& builder, std::shared_ptr<grpc::ServerCredentials> credentials);

  // Once the server runs. A connection whose peer does not confirm data for `user_timeout` ends.
  void Start(std::chrono::milliseconds user_timeout);

  // Closes the port; connections stay. The server that they were handed to must still be there.
  void Stop() { listener_->Stop(); }

  // 0 for a unix socket.
  int port() const { return listener_->port(); }

  // Connections that are open now.
  int open_connections() { return listener_->open_connections(); }

 private:
  GrpcPort() = default;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<ConnectionListener> listener_;  // ends before what it calls
};

}  // namespace tandem::server
