// The results of `tandem bench` as a table, JSON and a chart. Each speed stands next to the ceiling
// of the machine, measured between the runs. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/step_timer.h"
#include "runtime/plan/ceilings.h"

namespace tandem::launcher {

enum class BenchPhase { kPrefill, kDecode };

// One measurement: `batch` sequences, each with `context` tokens to prefill, or in the cache
// already (decode).
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
  double bytes = 0;       // read by all ranks: weights once per step, and the KV cache
  double operations = 0;  // executed; a multiply-add is two
  parallel::StepTimer::Seconds parts{};  // of rank 0
  plan::Ceilings ceilings;               // mean of the measurements right before and after the run
};

struct BenchReport {
  std::string model;
  std::string weights;  // "bf16", "int8", ...
  std::string kv_dtype;
  std::string isa;
  std::string peak_instruction;
  int tp = 1;
  int threads = 1;                       // per rank
  std::vector<plan::Ceilings> ceilings;  // before and after each timed run
  double streamed = 0;                   // bytes of weights that all ranks stream per step; 0: none
  std::vector<BenchPoint> points;
  std::vector<std::vector<BenchRun>> runs;  // [points][repeats]
  struct Rank {
    uint64_t planned_bytes = 0;
    uint64_t peak_memory = 0;
  };
  std::vector<Rank> ranks;
};

// One point: medians over its runs. The fractions of a run use the ceilings of that run.
struct BenchResult {
  BenchPoint point;
  double tokens_per_s = 0;
  double gbps = 0, bandwidth_fraction = 0;
  double gops = 0, peak_fraction = 0;
  double stream_gbps = 0;                 // of streamed weights
  std::optional<double> stream_fraction;  // none: the ceiling was not measured
  BenchRun median;                        // the run with the median speed
};

double Median(std::vector<double> values);
std::vector<BenchResult> Summarize(const BenchReport& report);

// "prefill", "decode"
const char* PhaseName(BenchPhase phase);

// One line; docs/performance.md describes the fields.
std::string BenchJson(const BenchReport& report);
std::string BenchTable(const BenchReport& report);
// An SVG document: each point's speed, fractions of the ceilings, and time by part of a step.
std::string BenchChart(const BenchReport& report);

}  // namespace tandem::launcher
