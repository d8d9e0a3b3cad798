#include "runtime/server/serve_metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "parallel/step_timer.h"

namespace tandem::server {
namespace {

using Labels = std::vector<prometheus::ClientMetric::Label>;

// In the order of the codes' numbers.
constexpr std::array<const char*, 17> kStatusCodes = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Collects families; the last that was begun gets the values.
class Families {
 public:
  void Counter(const char* name, const char* help) {
    Begin(name, prometheus::MetricType::Counter, help);
  }
  void Gauge(const char* name, const char* help) {
    Begin(name, prometheus::MetricType::Gauge, help);
  }

  void Value(double value, Labels labels = {}) {
    prometheus::ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = value;
    metric.gauge.value = value;
    families_.back().metric.push_back(std::move(metric));
  }

  void Histogram(const char* name, const char* help, const engine::Histogram& histogram) {
    Begin(name, prometheus::MetricType::Histogram, help);
    const engine::Histogram::Counts counts = histogram.Read();
    prometheus::ClientMetric metric;
    metric.histogram.sample_count = counts.count;
    metric.histogram.sample_sum = counts.sum;
    uint64_t below = 0;
    for (size_t i = 0; i < counts.bounds.size(); ++i) {
      below += counts.buckets[i];
      metric.histogram.bucket.push_back(
          {.cumulative_count = below, .upper_bound = counts.bounds[i]});
    }
    families_.back().metric.push_back(std::move(metric));  // the bound +Inf is the serializer's
  }

  std::string Text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  void Begin(const char* name, prometheus::MetricType type, const char* help) {
    families_.push_back({absl::StrCat("tandem_", name), help, type, {}});
  }

  std::vector<prometheus::MetricFamily> families_;
};

void AddRequests(const RequestMetrics& requests, Families& out) {
  out.Counter("request_success_total",
              "Generate calls answered in full, by how: stop, or length where a choice was cut.");
  out.Value(requests.stopped, {{"finished_reason", "stop"}});
  out.Value(requests.cut, {{"finished_reason", "length"}});
  out.Counter("request_failures_total", "Generate calls that ended with an error, by gRPC status.");
  for (size_t code = 1; code < kStatusCodes.size(); ++code) {
    out.Value(requests.failures[code], {{"code", kStatusCodes[code]}});
  }
  out.Histogram("e2e_request_latency_seconds",
                "From a call's arrival to its last token, of calls answered in full.",
                requests.seconds);
  out.Histogram("request_prompt_tokens", "Prompt tokens of calls answered in full.",
                requests.prompt_tokens);
  out.Histogram("request_generation_tokens",
                "Generated tokens of calls answered in full, all choices together.",
                requests.generated_tokens);
}

void AddLoadGuard(const engine::LoadGuardStats& watch, Families& out) {
  out.Gauge("num_requests_running_limit", "Choices that the load guard lets run at once now.");
  out.Value(static_cast<double>(watch.max_running));
  out.Gauge("kv_cache_fragmentation_ratio",
            "Free blocks among those up to the highest in use, before the last step.");
  out.Value(watch.fragmentation);
  out.Counter("kv_cache_blocks_moved_total", "Blocks that compaction has moved.");
  out.Value(static_cast<double>(watch.blocks_moved));
  out.Counter("watch_actions_total", "What the load guard has done or said, by kind.");
  const std::pair<const char*, int64_t> actions[] = {{"batch_reduced", watch.batch_reductions},
                                                     {"batch_grown", watch.batch_growths},
                                                     {"compaction", watch.compactions},
                                                     {"latency_warning", watch.latency_warnings},
                                                     {"latency_alarm", watch.latency_alarms}};
  for (const auto& [kind, count] : actions) {
    out.Value(static_cast<double>(count), {{"kind", kind}});
  }
}

void AddStats(const engine::EngineStats& stats, Families& out) {
  const auto count = [&out](int64_t value) { out.Value(static_cast<double>(value)); };
  out.Gauge("num_requests_running", "Choices that hold KV blocks.");
  count(stats.running);
  out.Gauge("num_requests_waiting", "Choices that wait for their first step, or for their next.");
  count(stats.waiting);
  out.Gauge("kv_cache_usage_perc", "KV blocks that choices hold, of all; 1 is full.");
  out.Value(stats.kv_blocks_total == 0
                ? 0
                : static_cast<double>(stats.kv_blocks_used) / stats.kv_blocks_total);
  out.Gauge("kv_cache_blocks", "KV blocks there are.");
  count(stats.kv_blocks_total);
  out.Counter("prompt_tokens_total",
              "Prompt tokens computed; those found in the prefix cache are not.");
  count(stats.prompt_tokens);
  out.Counter("generation_tokens_total", "Tokens generated.");
  count(stats.generated_tokens);
  out.Counter("spec_decode_num_draft_tokens_total", "Tokens computed ahead (--speculate).");
  count(stats.draft_tokens);
  out.Counter("spec_decode_num_accepted_tokens_total",
              "Those of them that became tokens of answers.");
  count(stats.accepted_draft_tokens);
  out.Counter("prefix_cache_queries_total",
              "Prompt tokens of choices that began, looked for in the prefix cache.");
  count(stats.looked_up_prompt_tokens);
  out.Counter("prefix_cache_hits_total", "Those of them that were there.");
  count(stats.cached_prompt_tokens);
  out.Counter("num_preemptions_total", "Running choices that gave their KV blocks up.");
  count(stats.preemptions);
}

void AddEngine(const engine::EngineMetrics& metrics, int tp, bool parts, Families& out) {
  out.Histogram("time_to_first_token_seconds", "Of each choice, from the queue's entrance.",
                metrics.first_token);
  out.Histogram("inter_token_latency_seconds", "Of each choice, from one token to the next.",
                metrics.token);
  out.Histogram("request_queue_time_seconds", "Of each choice, until its first step.",
                metrics.queue);
  out.Histogram("iteration_tokens", "Tokens computed in a step.", metrics.step_tokens);
  const auto answered = metrics.ranks_answered.load(std::memory_order_relaxed);
  if (tp > 1 && answered != engine::EngineMetrics::Clock::time_point()) {
    out.Gauge("rank_heartbeat_age_seconds",
              "Since all ranks last took part in a step or gave a sign of life.");
    const auto age = engine::EngineMetrics::Clock::now() - answered;
    out.Value(std::max(0.0, std::chrono::duration<double>(age).count()));
  }
  if (!parts) return;
  out.Counter("step_seconds_total",
              "Rank 0's time by part of a step; all_reduce is also the wait for other ranks.");
  for (int part = 0; part < parallel::kStepParts; ++part) {
    if (part == static_cast<int>(parallel::StepPart::kIdle)) continue;  // known to the last step
    out.Value(metrics.part_seconds[part].load(std::memory_order_relaxed),
              {{"part", std::string(parallel::StepPartName(static_cast<parallel::StepPart>(part)))},
               {"rank", "0"}});
  }
}

void AddRanks(const std::vector<RankInfo>& ranks, const std::vector<uint64_t>& peaks, bool lost,
              Families& out) {
  const auto labels = [&ranks](size_t rank) -> Labels {
    return {{"rank", absl::StrCat(rank)}, {"host", ranks[rank].host}};
  };
  out.Gauge("rank_up",
            "1: the rank runs, 0: it has ended. Of other hosts' ranks, while steps succeed.");
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (ranks[i].seen) out.Value(ranks[i].ended ? 0 : 1, labels(i));
    if (!ranks[i].seen && !lost) out.Value(1, labels(i));
  }
  out.Gauge("rank_memory_planned_bytes", "What the plan gives a rank, by purpose.");
  for (size_t i = 0; i < ranks.size(); ++i) {
    const plan::MemoryPlan& plan = ranks[i].planned;
    const std::pair<const char*, uint64_t> parts[] = {{"weights", plan.weights},
                                                      {"embedding", plan.embedding},
                                                      {"kv", plan.kv},
                                                      {"workspace", plan.workspace},
                                                      {"communication", plan.communication},
                                                      {"process", plan.process},
                                                      {"preparation", plan.preparation}};
    for (const auto& [purpose, bytes] : parts) {
      Labels all = labels(i);
      all.push_back({"purpose", purpose});
      out.Value(static_cast<double>(bytes), std::move(all));
    }
  }
  out.Gauge("rank_memory_bytes",
            "Anonymous and shared memory of the ranks on rank 0's host; not a GPU's.");
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (!ranks[i].seen || ranks[i].ended) continue;
    out.Value(static_cast<double>(ranks[i].measured_bytes), labels(i));
  }
  out.Gauge("rank_memory_peak_bytes",
            "The most of it that was seen: when the model was loaded, and at scrapes.");
  for (size_t i = 0; i < ranks.size(); ++i) {
    out.Value(static_cast<double>(peaks[i]), labels(i));
  }
}

}  // namespace

void ServeMetrics::SetModel(const ServedModel& model) {
  std::lock_guard lock(mutex_);
  TANDEM_CHECK(model_ == nullptr);
  model_ = std::make_shared<const ServedModel>(model);
}

void ServeMetrics::SetDraining() {
  std::lock_guard lock(mutex_);
  draining_ = true;
}

void ServeMetrics::SetLost() {
  std::lock_guard lock(mutex_);
  lost_ = true;
}

std::string ServeMetrics::Text() {
  std::shared_ptr<const ServedModel> model;
  bool draining = false;
  bool lost = false;
  {
    std::lock_guard lock(mutex_);
    model = model_;
    draining = draining_;
    lost = lost_;
  }
  Families out;
  out.Gauge("build_info", "1, with the program's version and the linker's digest of it.");
  out.Value(1, {{"version", info_.version}, {"build", info_.build}});
  if (info_.restarts.has_value()) {
    out.Counter("restarts_total",
                "Worlds that the launcher has started in place of ones that failed.");
    out.Value(static_cast<double>(*info_.restarts));
  }
  out.Gauge("model_loaded", "0 while the weights are being loaded, then 1.");
  out.Value(model != nullptr ? 1 : 0);
  out.Gauge("draining", "1 from the signal to end on, or from the loss of a rank.");
  out.Value(draining ? 1 : 0);
  AddRequests(requests_, out);
  if (model == nullptr) return out.Text();

  out.Gauge("model_info", "1, with what is served.");
  out.Value(1, {{"model", model->info.name},
                {"architecture", model->info.architecture},
                {"weight_dtype", model->info.weight_dtype},
                {"tp", absl::StrCat(model->info.tp_degree)}});
  const engine::EngineStats stats = model->engine->Stats();
  AddStats(stats, out);
  AddLoadGuard(stats.load_guard, out);
  if (model->engine_metrics != nullptr) {
    AddEngine(*model->engine_metrics, model->info.tp_degree, model->step_parts, out);
  }
  if (model->ranks) {
    const std::vector<RankInfo> ranks = model->ranks();
    std::vector<uint64_t> peaks;
    {
      std::lock_guard lock(mutex_);
      peaks_.resize(ranks.size());
      for (size_t i = 0; i < ranks.size(); ++i) {
        peaks_[i] = std::max({peaks_[i], ranks[i].measured_bytes, ranks[i].loaded_bytes});
      }
      peaks = peaks_;
    }
    AddRanks(ranks, peaks, lost, out);
  }
  return out.Text();
}

}  // namespace tandem::server
