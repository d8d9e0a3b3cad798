// The way to a server: encryption, tokens, retries.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "launcher/command/options.h"

namespace tandem::launcher {

// Connects when it is first used. A call that gets UNAVAILABLE before its first message is tried
// again, three times in all. INVALID_ARGUMENT or NOT_FOUND naming a file that cannot be used.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(const std::string& address,
                                                           const ChannelOptions& options);

// Adds the token of the options' file, where one is named.
absl::Status AddToken(const ChannelOptions& options, grpc::ClientContext* context);

}  // namespace tandem::launcher
