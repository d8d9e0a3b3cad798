// `tandem render`: prints the prompt that a chat template makes from messages, without a line end
// of its own.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct RenderOptions {
  std::string model;     // a model folder or name, or the path of a .jinja file
  std::string messages;  // a JSON file; "-": standard input
};

// Adds the subcommand with its options.
CLI::App* AddRender(CLI::App& parent, RenderOptions* options);

absl::StatusOr<int> RunRender(const RenderOptions& options, char** argv);

}  // namespace tandem::launcher
