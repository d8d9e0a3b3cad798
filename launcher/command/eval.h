// `tandem eval`: how well a model predicts a text, alone or against a reference.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "launcher/command/model_options.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct EvalOptions {
  ModelOptions model;
  std::string text;
  std::string reference;         // another model
  std::string reference_logits;  // or its logits: a file that --logits wrote
  std::string logits;            // file for raw fp32 [predicted tokens, vocab]; empty: none
  int64_t context = 0;           // tokens of a window; 0: the model's limit, at most 2048
  int64_t stride = 0;            // tokens between windows; 0: the context
  bool json = false;
};

// Adds the subcommand with its options.
CLI::App* AddEval(CLI::App& parent, EvalOptions* options);

absl::StatusOr<int> RunEval(const EvalOptions& options, char** argv);

}  // namespace tandem::launcher
