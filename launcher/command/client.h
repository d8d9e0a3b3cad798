// `tandem client`: sends one prompt to a server and prints the answer as it arrives.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/command/client_channel.h"
#include "launcher/command/prompt_options.h"
#include "runtime/engine/sampling_request.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct ClientOptions {
  std::string address = "127.0.0.1:50051";
  PromptOptions prompt;
  bool chat = false;  // the prompt is one message of the user, not raw text
  engine::SamplingRequest sampling;
  ChannelOptions channel;
  bool json = false;
  double timeout = 0;     // seconds, of the call; 0: none
  double wait_ready = 0;  // seconds to wait until the server is SERVING; 0: do not check
};

// Adds the subcommand with its options.
CLI::App* AddClient(CLI::App& parent, ClientOptions* options);

absl::StatusOr<int> RunClient(const ClientOptions& options, char** argv);

}  // namespace tandem::launcher
