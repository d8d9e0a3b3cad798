#include "runtime/server/grpc_server.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

struct HostPort {
  std::string host;
  std::string port;
};

absl::StatusOr<HostPort> SplitAddress(const std::string& listen) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen address \"", listen, "\": expected HOST:PORT, [IPv6]:PORT or unix:PATH"));
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

// Tries the address with a socket of our own, because gRPC reports a failure to its log and not to
// us, in its own words. The socket is closed again; in the moment between, gRPC may still lose the
// port to another, and Start reports that less exactly.
absl::Status ProbeAddress(const std::string& listen) {
  if (listen.rfind("unix:", 0) == 0) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const HostPort address, SplitAddress(listen));
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", listen, ": ", gai_strerror(error)));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, &freeaddrinfo);
  int failure = 0;
  int bound = 0;
  for (const addrinfo* candidate = found; candidate != nullptr; candidate = candidate->ai_next) {
    const int fd = socket(candidate->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
      failure = errno;
      continue;
    }
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, candidate->ai_addr, candidate->ai_addrlen) == 0 && ::listen(fd, 1) == 0) {
      ++bound;
    } else {
      failure = errno;
      if (failure == EADDRINUSE) bound = -1;  // one of a name's addresses is enough to refuse
    }
    close(fd);
    if (bound < 0) break;
  }
  if (bound > 0) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", listen, ": ", std::strerror(failure)));
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  TANDEM_RETURN_IF_ERROR(ProbeAddress(options.listen));

  TANDEM_ASSIGN_OR_RETURN(const auto credentials, MakeServerCredentials(options.tls));

  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  std::unique_ptr<GrpcServer> result(new GrpcServer());
  builder.AddListeningPort(options.listen, credentials, &result->port_);
  for (grpc::Service* service : services) builder.RegisterService(service);
  builder.SetMaxReceiveMessageSize(options.max_receive_bytes);
  // gRPC unpacks a compressed request before it looks at that limit, and a few KiB unpack to
  // gigabytes.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                             static_cast<int>(options.keepalive_time.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                             static_cast<int>(options.keepalive_timeout.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             static_cast<int>(options.min_client_ping_interval.count()));
  const auto set_if = [&builder](const char* name, std::chrono::milliseconds value) {
    if (value.count() > 0) builder.AddChannelArgument(name, static_cast<int>(value.count()));
  };
  set_if(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.max_connection_age);
  if (options.max_connection_age.count() > 0) {
    set_if(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, options.max_connection_age_grace);
  }
  set_if(GRPC_ARG_MAX_CONNECTION_IDLE_MS, options.max_connection_idle);
  result->server_ = builder.BuildAndStart();
  const bool is_unix = options.listen.rfind("unix:", 0) == 0;
  if (result->server_ == nullptr || (result->port_ == 0 && !is_unix)) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.listen));
  }
  if (is_unix) result->port_ = 0;
  return result;
}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::system_clock::now()); }

void GrpcServer::Shutdown(std::chrono::system_clock::time_point deadline) {
  if (server_ == nullptr) return;
  server_->Shutdown(deadline);
  server_->Wait();
  server_.reset();
}

}  // namespace tandem::server
