// `tandem quantize`: writes a folder with a quantized copy of a model, in the format of the
// compressed-tensors package. Runs in one process, without ranks.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct QuantizeOptions {
  std::string model, output;
  std::string dtype = "int4";
  int64_t group_size = 32;
  bool zero_points = false;
  std::string head_dtype = "int8";
  std::string method;       // empty: gptq with calibration, else search
  std::string calibration;  // a text file; empty: none
  int64_t calibration_tokens = 32768;
  int threads = 0;  // 0: all CPUs that this process may use
};

// Adds the subcommand with its options.
CLI::App* AddQuantize(CLI::App& parent, QuantizeOptions* options);

absl::StatusOr<int> RunQuantize(const QuantizeOptions& options, char** argv);

}  // namespace tandem::launcher
