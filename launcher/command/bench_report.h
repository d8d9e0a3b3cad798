// What `tandem bench` found out, and how it is told: a table, JSON, a chart. Speeds stand next to
// what the machine could do at most, measured between the runs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/step_timer.h"
#include "runtime/plan/ceilings.h"

namespace tandem::launcher {

enum class BenchPhase { kPrefill, kDecode };

// One cell of the grid: `batch` sequences, of `context` tokens in the cache (decode), or that are
// to be read (prefill).
struct BenchPoint {
  BenchPhase phase = BenchPhase::kDecode;
  int64_t batch = 1;
  int64_t context = 512;
};

// One timed run of a point.
struct BenchRun {
  double seconds = 0;
  int64_t steps = 0;
  int64_t tokens = 0;     // prefilled, or generated
  double bytes = 0;       // touched: weights once a step, the KV cache as read; all ranks
  double operations = 0;  // executed; a multiply-add is two
  parallel::StepTimer::Seconds parts{};  // of rank 0
  plan::Ceilings ceilings;               // means of those measured right before and right after
};

struct BenchReport {
  std::string model;
  std::string weights;  // "bf16", "int8", ...
  std::string kv_dtype;
  std::string isa;
  std::string peak_instruction;
  int tp = 1;
  int threads = 1;                       // a rank's
  std::vector<plan::Ceilings> ceilings;  // before and after each timed run
  double streamed = 0;  // bytes of weights that come in a step, to all ranks; 0: none do
  std::vector<BenchPoint> points;
  std::vector<std::vector<BenchRun>> runs;  // [points][repeats]
  struct Rank {
    uint64_t planned_bytes = 0;
    uint64_t peak_memory = 0;
  };
  std::vector<Rank> ranks;
};

// Of one point: medians over its runs; a run's fractions are of its own ceilings.
struct BenchResult {
  BenchPoint point;
  double tokens_per_s = 0;
  double gbps = 0, bandwidth_fraction = 0;
  double gops = 0, peak_fraction = 0;
  double stream_gbps = 0;                 // of streamed weights
  std::optional<double> stream_fraction;  // where the ceiling was measured
  BenchRun median;                        // the run of the median speed
};

double Median(std::vector<double> values);
std::vector<BenchResult> Summarize(const BenchReport& report);

// "prefill", "decode"
const char* PhaseName(BenchPhase phase);

// One line; docs/performance.md tells the fields.
std::string BenchJson(const BenchReport& report);
std::string BenchTable(const BenchReport& report);
// An SVG document: for each point its speed, its fractions of the ceilings, and its time by part.
std::string BenchChart(const BenchReport& report);

}  // namespace tandem::launcher
