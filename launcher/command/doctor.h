// `tandem doctor`: tests and benchmarks each transport between ranks.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct DoctorOptions {
  int tp = 0;  // number of ranks; 0: of the given world, or one per socket
  std::string device = "cpu";
  bool json = false;
};

// Adds the subcommand with its options.
CLI::App* AddDoctor(CLI::App& parent, DoctorOptions* options);

absl::StatusOr<int> RunDoctor(const DoctorOptions& options, char** argv);

}  // namespace tandem::launcher
