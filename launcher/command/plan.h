// `tandem plan`: shows what fits on which devices. Reads only config.json and the headers of the
// weight files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace tandem::launcher {

struct PlanOptions {
  std::string model;
  std::string device = "cpu";              // or cuda: the kind of the devices
  std::string devices;                     // as runtime/plan/device_list.h reads them
  std::vector<double> bandwidth = {600};   // GB/s, one value or one per group of devices
  double all_reduce_us = 20;               // for one token
  std::string weights = "resident";        // or stream
  std::optional<double> stream_bandwidth;  // GB/s per rank; none: of a disk, or of PCIe for GPUs
  int64_t context = 0;  // tokens per stream; 0: 8192, or the model's limit if lower
  int64_t streams = 1;
  std::string kv_dtype = "auto";
  std::string format;  // only this one; empty: all
  int tp = 0;          // only this one; 0: all
  bool json = false;
  std::string plot;  // SVG file; empty: none
};

// Adds the subcommand with its options.
CLI::App* AddPlan(CLI::App& parent, PlanOptions* options);

// The exit code is 0 if a plan fits, kExitUnavailable if none does.
absl::StatusOr<int> RunPlan(const PlanOptions& options, char** argv);

}  // namespace tandem::launcher
