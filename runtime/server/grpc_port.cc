#include "runtime/server/grpc_port.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "kernels/base/status_macros.h"

namespace tandem::server {

absl::StatusOr<std::unique_ptr<GrpcPort>> GrpcPort::Open(const ListenerOptions& options) {
  std::unique_ptr<GrpcPort> port(new GrpcPort());
  TANDEM_ASSIGN_OR_RETURN(port->listener_, ConnectionListener::Open(options));
  return port;
}

void GrpcPort::AddTo(grpc::ServerBuilder& builder,
                     std::shared_ptr<grpc::ServerCredentials> credentials) {
  using Type = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  acceptor_ =
      builder.experimental().AddExternalConnectionAcceptor(Type::FROM_FD, std::move(credentials));
}

void GrpcPort::Start(std::chrono::milliseconds user_timeout) {
  listener_->Start([this, timeout = static_cast<unsigned>(user_timeout.count())](
                       int fd, const sockaddr_storage& peer, socklen_t) {
    // What gRPC sets for sockets that it accepts itself. TCP_NODELAY: small messages at once.
    if (peer.ss_family == AF_INET || peer.ss_family == AF_INET6) {
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
      setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
    }
    sockaddr_storage still{};
    socklen_t size = sizeof(still);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&still), &size) != 0) {
      close(fd);  // reset already; gRPC would log a line for each
      return;
    }
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    acceptor_->HandleNewConnection(&connection);
  });
}

}  // namespace tandem::server
