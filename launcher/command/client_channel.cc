#include "launcher/command/client_channel.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"

namespace tandem::launcher {
namespace {

// Of a certificate, key or token.
constexpr size_t kMaxBytes = size_t{16} << 20;

// gRPC retries a call only before the first message of its answer, so no text arrives twice.
constexpr char kServiceConfig[] = R"({"methodConfig": [{
  "name": [{"service": "tandem.v1.InferenceService"}],
  "retryPolicy": {"maxAttempts": 3, "initialBackoff": "0.1s", "maxBackoff": "1s",
                  "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]})";

absl::StatusOr<std::string> ReadOption(const char* option, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxBytes);
  if (text.ok()) return text;
  return absl::Status(text.status().code(), absl::StrCat(option, " ", text.status().message()));
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const ChannelOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);  // the server may still be starting
  arguments.SetServiceConfigJSON(kServiceConfig);
  const bool tls = options.tls || !options.tls_ca.empty() || !options.tls_cert.empty();
  if (!tls) {
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  }
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError(
        "--tls-cert and --tls-key: found one of them, expected both or none");
  }
  grpc::SslCredentialsOptions ssl;
  if (!options.tls_ca.empty()) {
    TANDEM_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadOption("--tls-ca", options.tls_ca));
  }
  if (!options.tls_cert.empty()) {
    TANDEM_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadOption("--tls-cert", options.tls_cert));
    TANDEM_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadOption("--tls-key", options.tls_key));
  }
  if (!options.tls_name.empty()) arguments.SetSslTargetNameOverride(options.tls_name);
  return grpc::CreateCustomChannel(address, grpc::SslCredentials(ssl), arguments);
}

absl::Status AddToken(const ChannelOptions& options, grpc::ClientContext* context) {
  if (options.token_file.empty()) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(std::string token, ReadOption("--token-file", options.token_file));
  token.resize(std::min(token.size(), token.find_first_of(" \t\r\n")));
  if (token.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--token-file ", options.token_file, ": found no token in the first line"));
  }
  context->AddMetadata("authorization", absl::StrCat("Bearer ", token));
  return absl::OkStatus();
}

}  // namespace tandem::launcher
