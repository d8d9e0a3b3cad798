#include "runtime/server/grpc_server.h"

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "kernels/base/status_macros.h"
#include "runtime/server/listen_address.h"

namespace tandem::server {

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  // Tried first with a socket of our own, because gRPC reports a failure to its log and not to us,
  // in its own words. In the moment between, gRPC may still lose the port to another, and what
  // follows reports that less exactly.
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
