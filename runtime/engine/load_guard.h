// Keeps the engine within its memory: limits the batch when the KV cache fills up, asks for
// compaction when it is fragmented, and rates latency. Pure logic over numbers: the engine hands
// the numbers in and carries the decisions out. Its options are the --watch-* options.
//
// KV use is the part of all blocks that sequences hold. Above kv_high the batch shrinks by an
// eighth per step until use is lower; below kv_low it grows by an eighth per step. In between it
// stays.
//
// Fragmentation is the part of free blocks among those up to the highest occupied one:
// 1 - occupied / (highest occupied + 1). Above fragmentation_high some blocks per step move from
// the top into free places, until fragmentation is at most fragmentation_low.
//
// Latency is the 95th percentile of time to first token and of inter-token latency, each over the
// last kSamples samples no older than kMaxAge, if there are at least kMinSamples.
//
// Single-threaded (the engine's thread). Takes memory at construction and for an action's reason.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace tandem::engine {

struct LoadGuardOptions {
  // Parts of 1.
  double kv_low = 0.80;
  double kv_high = 0.95;  // 1: the batch is never reduced
  double fragmentation_low = 0.15;
  double fragmentation_high = 0.30;  // 1: nothing is ever moved
  // Seconds; infinity: never.
  double latency_warning = 0.5;
  double latency_alarm = 1.0;
};

// INVALID_ARGUMENT names the option that is out of range or order.
absl::Status CheckLoadGuardOptions(const LoadGuardOptions& options);

enum class LatencyLevel : uint8_t { kNormal, kWarning, kAlarm };

struct LoadGuardAction {
  enum class Kind : uint8_t {
    kBatchReduced,
    kBatchGrown,
    kCompaction,
    kLatencyNormal,
    kLatencyWarning,
    kLatencyAlarm,
  };
  Kind kind;
  std::string reason;  // one line, with the numbers that led to it
};

// As GetServerStatus reports it. Counts are since the start.
struct LoadGuardStats {
  int64_t max_running = 0;   // sequences that may run at once now
  double fragmentation = 0;  // of 1
  int64_t batch_reductions = 0;
  int64_t batch_growths = 0;
  int64_t compactions = 0;
  int64_t blocks_moved = 0;
  int64_t latency_warnings = 0;
  int64_t latency_alarms = 0;
  double ttft_p95 = 0;  // seconds; 0: not known
  double itl_p95 = 0;
  LatencyLevel ttft_level = LatencyLevel::kNormal;
  LatencyLevel itl_level = LatencyLevel::kNormal;
};

// The KV cache before a step, in blocks, and the sequences that run.
struct KvUse {
  int32_t blocks = 0;    // of the cache
  int32_t held = 0;      // by sequences
  int32_t occupied = 0;  // held, or kept for their content
  int32_t span = 0;      // up to the highest that is occupied
  int32_t running = 0;
  double fragmentation() const { return span == 0 ? 0 : double(span - occupied) / span; }
};

class LoadGuard {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr size_t kSamples = 1024;
  static constexpr size_t kMinSamples = 20;
  static constexpr std::chrono::seconds kMaxAge{60};
  static constexpr std::chrono::seconds kInterval{1};  // between two judgements of latency

  // `options` have been checked. `on_action` is called for every action, after it is counted; may
  // be null.
  LoadGuard(const LoadGuardOptions& options, int32_t max_running,
            std::function<void(const LoadGuardAction&)> on_action);

  // Before a step.
  struct Decision {
    int32_t max_running = 0;  // at least 1; running sequences beyond it give up their blocks
    bool compact = false;
  };
  Decision Decide(const KvUse& use);
  void CountMoves(int32_t blocks) { stats_.blocks_moved += blocks; }

  void AddFirstToken(double seconds, Clock::time_point now) { ttft_.Add(seconds, now); }
  void AddToken(double seconds, Clock::time_point now) { itl_.Add(seconds, now); }
  // Rates latency, at most once per interval.
  void JudgeLatency(Clock::time_point now);
  // Latency is not normal. Without new tokens it becomes normal by time alone, so JudgeLatency has
  // to be called while this holds.
  bool latency_is_high() const {
    return stats_.ttft_level != LatencyLevel::kNormal || stats_.itl_level != LatencyLevel::kNormal;
  }

  const LoadGuardStats& stats() const { return stats_; }

 private:
  class Window {
   public:
    Window();
    void Add(double seconds, Clock::time_point now);
    // Of the samples that are young enough; 0: too few.
    double Percentile95(Clock::time_point now);

   private:
    struct Sample {
      Clock::time_point at;
      double seconds;
    };
    std::vector<Sample> samples_;  // a ring
    size_t next_ = 0;
    std::vector<double> scratch_;
  };

  void JudgeOne(const char* name, double p95, LatencyLevel* level);
  void Act(LoadGuardAction::Kind kind, int64_t* count, std::string reason);

  const LoadGuardOptions options_;
  const int32_t most_running_;
  const std::function<void(const LoadGuardAction&)> on_action_;
  bool compacting_ = false;
  Window ttft_, itl_;
  Clock::time_point next_judgement_{};
  LoadGuardStats stats_;
};

}  // namespace tandem::engine
