// `tandem bench`: measures speed, and compares it with the machine's ceilings.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/command/model_options.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

// One measurement, PHASE:BATCH:CONTEXT.
struct BenchCell {
  std::string phase;
  int64_t batch = 1;
  int64_t context = 512;
};

struct BenchOptions {
  ModelOptions model;
  std::string phase = "all";  // prefill, decode, all
  std::vector<int64_t> batch = {1, 16};
  std::vector<int64_t> context = {512};  // tokens
  std::vector<BenchCell> cells;          // instead of the grid; empty: the grid
  int64_t decode_tokens = 32;            // of each sequence in a timed run
  int64_t repeats = 5;
  int64_t warmup = 1;  // rounds that are not reported
  bool json = false;
  std::string plot_file;  // empty: none
  bool paced = false;     // a round begins with a line on standard input
};

// Adds the subcommand with its options.
CLI::App* AddBench(CLI::App& parent, BenchOptions* options);

absl::StatusOr<int> RunBench(const BenchOptions& options, char** argv);

}  // namespace tandem::launcher
