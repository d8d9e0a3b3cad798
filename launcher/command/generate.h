// `tandem generate`: answers one prompt and exits.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "launcher/command/model_options.h"
#include "launcher/command/prompt_options.h"
#include "runtime/engine/sampling_request.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct GenerateOptions {
  ModelOptions model;
  PromptOptions prompt;
  engine::SamplingRequest sampling;
  bool json = false;
  std::string logits_file;
};

// Adds the subcommand with its options.
CLI::App* AddGenerate(CLI::App& parent, GenerateOptions* options);

absl::StatusOr<int> RunGenerate(const GenerateOptions& options, char** argv);

}  // namespace tandem::launcher
