// `tandem tokenize`: prints the token ids of standard input. Reads only tokenizer.json of the
// model.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct TokenizeOptions {
  std::string model;
  bool json = false;
  bool add_special = false;
};

// Adds the subcommand with its options.
CLI::App* AddTokenize(CLI::App& parent, TokenizeOptions* options);

absl::StatusOr<int> RunTokenize(const TokenizeOptions& options, char** argv);

}  // namespace tandem::launcher
