// `tandem detokenize`: prints the text of the token ids on standard input. Reads only
// tokenizer.json of the model.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct DetokenizeOptions {
  std::string model;
  bool json = false;
  bool skip_special = false;
};

// Adds the subcommand with its options.
CLI::App* AddDetokenize(CLI::App& parent, DetokenizeOptions* options);

absl::StatusOr<int> RunDetokenize(const DetokenizeOptions& options, char** argv);

}  // namespace tandem::launcher
