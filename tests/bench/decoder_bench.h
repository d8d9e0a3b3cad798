// What decoder_bench is asked for, and how its results are told.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/machine_probe.h"
#include "nlohmann/json.hpp"
#include "runtime/model/decoder.h"

namespace tandem::bench {

using Json = nlohmann::ordered_json;

struct BenchOptions {
  std::string shape = "8b";
  int64_t layers = 0;  // 0: the shape's
  std::string folder;  // of the weights' file; empty: in memory
  std::string device = "cuda";
  int threads = 1;  // of a rank on the CPU
  std::vector<std::string> formats = {"bf16"};
  std::string kv_dtype = "bf16";
  int tp = 1;                // ranks, as threads
  int shard = 0;             // > 0: one rank's share of so many, alone
  std::string way = "auto";  // of collectives between GPUs
  // graphs, issued, deterministic, streamed (issued, layers in the host's memory): each loads the
  // model anew.
  std::vector<std::string> modes = {"graphs", "issued", "deterministic"};
  std::vector<std::string> what = {"machine", "attention", "load", "decode", "prefill"};
  std::vector<int64_t> batches = {1, 8, 32, 64};
  int64_t context = 1024;
  int64_t prefill = 8192;
  int64_t chunk = 2048;  // tokens of a prefill's step
  int64_t attention_batch = 32;
  int64_t attention_context = 8192;
  int repeats = 5;
  int steps = 10;                             // of decoding in a repeat
  int64_t probe_bytes = int64_t{1} << 30;     // of each buffer that measures memory
  int64_t scratch_bytes = int64_t{64} << 20;  // as kernels::CudaOptions has them
  std::string json;                           // a file for the records; empty: none

  static absl::StatusOr<BenchOptions> Parse(int argc, char** argv);
  bool Wants(std::string_view part) const;
};

// Seconds of one of the same.
struct Samples {
  double median = 0, min = 0, max = 0;
  static Samples Of(std::vector<double> seconds);
  Json Microseconds() const;
};

// Of the machine, measured in the same run; 0: not measured.
struct Ceilings {
  double copy = 0;    // bytes a second
  double upload = 0;  // from pinned memory
  double peak = 0;    // operations a second
  static Ceilings Measure(kernels::MachineProbe& probe, kernels::DotType type);
};

// One line of JSON and one of a table for each result, written at once, so that a run that is cut
// short has told what it found.
class Report {
 public:
  explicit Report(const BenchOptions& options);
  // `record` goes behind what all records of this run have; `line` is the table's.
  void Add(std::string_view what, const Json& record, std::string_view line);
  void Set(std::string_view key, const Json& value) { common_[std::string(key)] = value; }

 private:
  Json common_;
  std::ofstream file_;
};

// What is measured of a rank's decoder; all ranks run the same steps, and one reports.
struct DecoderUnderTest {
  const BenchOptions& options;
  model::Decoder& decoder;
  kernels::Backend& backend;
  parallel::ShardPlan plan;
  int rank = 0;
  Ceilings ceilings;
  Report* report = nullptr;  // of the one rank
};

absl::Status MeasureDecode(const DecoderUnderTest& test);
absl::Status MeasurePrefill(const DecoderUnderTest& test);
// Attention alone, of one layer of a rank that has the whole model's heads.
absl::Status MeasureAttention(const BenchOptions& options, const loader::ModelConfig& config,
                              kernels::Backend& backend, const Ceilings& ceilings, Report& report);

absl::StatusOr<kernels::KvDType> ParseKvDType(std::string_view name);

}  // namespace tandem::bench
