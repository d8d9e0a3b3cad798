// `tandem batch`: answers a file of prompts; can be stopped and resumed.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "launcher/command/load_guard_options.h"
#include "launcher/command/model_options.h"
#include "runtime/engine/sampling_request.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct BatchOptions {
  ModelOptions model;
  LoadGuardLimits load_guard;
  std::string input;              // JSONL, plain or gzip; "-": standard input
  std::string output;             // its journal is OUTPUT.journal
  std::string errors;             // empty: OUTPUT.errors
  std::string on_error = "stop";  // or skip
  int replicas = 0;  // worlds of --tp ranks each; 0: 1, or as many as --hosts have slots for
  double progress_interval = 30;     // seconds between lines if stderr is no terminal
  bool ordered = false;              // results in the order of the input
  double time_limit = 0;             // seconds; 0: none, or the end of the Slurm job
  engine::SamplingRequest sampling;  // defaults for rows
};

// Adds the subcommand with its options.
CLI::App* AddBatch(CLI::App& parent, BatchOptions* options);

absl::StatusOr<int> RunBatch(const BatchOptions& options, char** argv);

}  // namespace tandem::launcher
