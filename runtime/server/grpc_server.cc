#include "runtime/server/grpc_server.h"

#include "absl/strings/str_cat.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/server_builder.h"
#include "kernels/base/status_macros.h"
#include "runtime/server/server_credentials.h"

namespace tandem::server {
namespace {

int Milliseconds(std::chrono::milliseconds time) { return static_cast<int>(time.count()); }

void AddLimits(const GrpcServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_receive_bytes);
  // gRPC unpacks a compressed request before it looks at that limit, and a few KiB unpack to
  // gigabytes.
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
}

void AddLiveness(const GrpcServerOptions& options, grpc::ServerBuilder& builder) {
  const auto set = [&builder](const char* name, std::chrono::milliseconds value) {
    builder.AddChannelArgument(name, Milliseconds(value));
  };
  const auto set_if = [&set](const char* name, std::chrono::milliseconds value) {
    if (value.count() > 0) set(name, value);
  };
  set(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, options.handshake_timeout);
  set(GRPC_ARG_KEEPALIVE_TIME_MS, options.keepalive_time);
  set(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, options.keepalive_timeout);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  set(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, options.min_client_ping_interval);
  set_if(GRPC_ARG_MAX_CONNECTION_AGE_MS, options.max_connection_age);
  if (options.max_connection_age.count() > 0) {
    set_if(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, options.max_connection_age_grace);
  }
  set_if(GRPC_ARG_MAX_CONNECTION_IDLE_MS, options.max_connection_idle);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, const std::vector<grpc::Service*>& services) {
  std::unique_ptr<GrpcServer> result(new GrpcServer());
  TANDEM_ASSIGN_OR_RETURN(
      result->port_, GrpcPort::Open({.listen = options.listen, .limits = options.connections}));
  TANDEM_ASSIGN_OR_RETURN(result->credentials_, MakeServerCredentials(options.tls));

  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  result->port_->AddTo(builder, result->credentials_);
  for (grpc::Service* service : services) builder.RegisterService(service);
  AddLimits(options, builder);
  AddLiveness(options, builder);
  result->server_ = builder.BuildAndStart();
  if (result->server_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot serve gRPC on ", options.listen));
  }
  result->port_->Start(options.keepalive_timeout);
  return result;
}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::system_clock::now()); }

void GrpcServer::Shutdown(std::chrono::system_clock::time_point deadline) {
  if (port_ != nullptr) port_->Stop();
  if (server_ == nullptr) return;
  server_->Shutdown(deadline);
  server_->Wait();
  server_.reset();
}

}  // namespace tandem::server
