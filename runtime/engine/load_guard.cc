#include "runtime/engine/load_guard.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"

namespace tandem::engine {
namespace {

absl::Status CheckPair(const char* name, double low, double high, double most) {
  if (low >= 0 && low <= high && high <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ": found ", low, " and ", high,
                                                 ", expected two numbers, 0 <= low <= high",
                                                 most == 1 ? " <= 1" : ""));
}

// Of a batch, what goes or comes back in one step.
int32_t Eighth(int32_t sequences) { return (sequences + 7) / 8; }

}  // namespace

absl::Status CheckLoadGuardOptions(const LoadGuardOptions& options) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  for (const absl::Status& status :
       {CheckPair("watch of KV use", options.kv_low, options.kv_high, 1),
        CheckPair("watch of fragmentation", options.fragmentation_low, options.fragmentation_high,
                  1),
        CheckPair("watch of latency", options.latency_warning, options.latency_alarm, kNever)}) {
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

LoadGuard::LoadGuard(const LoadGuardOptions& options, int32_t max_running,
                     std::function<void(const LoadGuardAction&)> on_action)
    : options_(options), most_running_(max_running), on_action_(std::move(on_action)) {
  TANDEM_CHECK(max_running > 0 && CheckLoadGuardOptions(options).ok());
  stats_.max_running = max_running;
}

LoadGuard::Decision LoadGuard::Decide(const KvUse& use) {
  const double held = static_cast<double>(use.held) / use.blocks;
  auto limit = static_cast<int32_t>(stats_.max_running);
  if (held > options_.kv_high && use.running > 1) {
    limit = std::min(limit, use.running - std::min(use.running - 1, Eighth(use.running)));
    stats_.max_running = limit;
    Act(LoadGuardAction::Kind::kBatchReduced, &stats_.batch_reductions,
        absl::StrFormat("batch reduced to %d of %d sequences: %.1f %% of the KV blocks are held, "
                        "over %.1f %%",
                        limit, use.running, 100 * held, 100 * options_.kv_high));
  } else if (held < options_.kv_low && limit < most_running_) {
    limit = std::min(most_running_, limit + Eighth(limit));
    stats_.max_running = limit;
    Act(LoadGuardAction::Kind::kBatchGrown, &stats_.batch_growths,
        absl::StrFormat("batch may grow to %d sequences: %.1f %% of the KV blocks are held, "
                        "under %.1f %%",
                        limit, 100 * held, 100 * options_.kv_low));
  }
  stats_.fragmentation = use.fragmentation();
  if (compacting_) {
    compacting_ = stats_.fragmentation > options_.fragmentation_low;
  } else if (stats_.fragmentation > options_.fragmentation_high) {
    compacting_ = true;
    Act(LoadGuardAction::Kind::kCompaction, &stats_.compactions,
        absl::StrFormat("KV cache is compacted: %d of the lowest %d blocks are free, "
                        "fragmentation %.1f %%, over %.1f %%",
                        use.span - use.occupied, use.span, 100 * stats_.fragmentation,
                        100 * options_.fragmentation_high));
  }
  return {.max_running = limit, .compact = compacting_};
}

void LoadGuard::JudgeLatency(Clock::time_point now) {
  if (now < next_judgement_) return;
  next_judgement_ = now + kInterval;
  stats_.ttft_p95 = ttft_.Percentile95(now);
  stats_.itl_p95 = itl_.Percentile95(now);
  JudgeOne("time to first token", stats_.ttft_p95, &stats_.ttft_level);
  JudgeOne("inter-token latency", stats_.itl_p95, &stats_.itl_level);
}

void LoadGuard::JudgeOne(const char* name, double p95, LatencyLevel* level) {
  const LatencyLevel now = p95 > options_.latency_alarm     ? LatencyLevel::kAlarm
                           : p95 > options_.latency_warning ? LatencyLevel::kWarning
                                                            : LatencyLevel::kNormal;
  if (now == *level) return;
  *level = now;
  const auto reason = [&](const char* what, double limit) {
    return absl::StrFormat("%s: 95 %% are within %.0f ms, %s %.0f ms", name, 1e3 * p95, what,
                           1e3 * limit);
  };
  switch (now) {
    case LatencyLevel::kAlarm:
      return Act(LoadGuardAction::Kind::kLatencyAlarm, &stats_.latency_alarms,
                 reason("alarm at", options_.latency_alarm));
    case LatencyLevel::kWarning:
      return Act(LoadGuardAction::Kind::kLatencyWarning, &stats_.latency_warnings,
                 reason("warning at", options_.latency_warning));
    case LatencyLevel::kNormal:
      return Act(
          LoadGuardAction::Kind::kLatencyNormal, nullptr,
          p95 == 0 ? absl::StrCat(name, ": normal, few tokens in the last ", kMaxAge.count(), " s")
                   : reason("normal up to", options_.latency_warning));
  }
}

void LoadGuard::Act(LoadGuardAction::Kind kind, int64_t* count, std::string reason) {
  if (count != nullptr) ++*count;
  if (on_action_) on_action_({.kind = kind, .reason = std::move(reason)});
}

LoadGuard::Window::Window() {
  samples_.reserve(kSamples);
  scratch_.reserve(kSamples);
}

void LoadGuard::Window::Add(double seconds, Clock::time_point now) {
  if (samples_.size() < kSamples) {
    samples_.push_back({now, seconds});
    return;
  }
  samples_[next_] = {now, seconds};
  next_ = (next_ + 1) % kSamples;
}

double LoadGuard::Window::Percentile95(Clock::time_point now) {
  scratch_.clear();
  for (const Sample& sample : samples_) {
    if (now - sample.at <= kMaxAge) scratch_.push_back(sample.seconds);
  }
  if (scratch_.size() < kMinSamples) return 0;
  // The smallest value that 95 % of the samples do not exceed.
  const size_t rank = (scratch_.size() * 95 + 99) / 100 - 1;
  std::nth_element(scratch_.begin(), scratch_.begin() + static_cast<std::ptrdiff_t>(rank),
                   scratch_.end());
  return scratch_[rank];
}

}  // namespace tandem::engine
