// The connection to a server: encryption, tokens, retries.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"

namespace tandem::launcher {

// How a client reaches the server.
struct ChannelOptions {
  bool tls = false;               // with the system's root certificates
  std::string tls_ca;             // PEM file; instead of the system's root certificates
  std::string tls_cert, tls_key;  // of this client
  std::string tls_name;           // expected in the server's certificate; empty: the host name
  std::string token_file;         // its first line is sent as the bearer token
};

// The channel connects at its first call. A call that fails with UNAVAILABLE before its first
// message is retried, up to three attempts. INVALID_ARGUMENT or NOT_FOUND with the name of a file
// that cannot be used.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const ChannelOptions& options);

// Adds the token of options.token_file, if there is one.
absl::Status AddToken(const ChannelOptions& options, grpc::ClientContext* context);

}  // namespace tandem::launcher
