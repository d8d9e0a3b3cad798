#include "launcher/command/bench_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"

namespace tandem::launcher {
namespace {

constexpr double kGiga = 1e9;

plan::Ceilings MedianCeilings(const BenchReport& report) {
  std::vector<double> read, peak, stream;
  for (const plan::Ceilings& ceilings : report.ceilings) {
    read.push_back(ceilings.read);
    peak.push_back(ceilings.peak);
    stream.push_back(ceilings.stream);
  }
  return {Median(read), Median(peak), Median(stream)};
}

double Speed(const BenchRun& run) { return static_cast<double>(run.tokens) / run.seconds; }

}  // namespace

double Median(std::vector<double> values) {
  TANDEM_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

const char* PhaseName(BenchPhase phase) {
  return phase == BenchPhase::kPrefill ? "prefill" : "decode";
}

std::vector<BenchResult> Summarize(const BenchReport& report) {
  std::vector<BenchResult> results;
  for (size_t i = 0; i < report.points.size(); ++i) {
    std::vector<BenchRun> runs = report.runs[i];
    std::vector<double> speeds, bytes, operations, of_reads, of_peak, streamed, of_stream;
    for (const BenchRun& run : runs) {
      speeds.push_back(Speed(run));
      bytes.push_back(run.bytes / run.seconds);
      operations.push_back(run.operations / run.seconds);
      of_reads.push_back(bytes.back() / run.ceilings.read);
      of_peak.push_back(operations.back() / run.ceilings.peak);
      streamed.push_back(report.streamed * static_cast<double>(run.steps) / run.seconds);
      if (run.ceilings.stream > 0) of_stream.push_back(streamed.back() / run.ceilings.stream);
    }
    std::sort(runs.begin(), runs.end(),
              [](const BenchRun& a, const BenchRun& b) { return Speed(a) < Speed(b); });
    results.push_back({.point = report.points[i],
                       .tokens_per_s = Median(speeds),
                       .gbps = Median(bytes) / kGiga,
                       .bandwidth_fraction = Median(of_reads),
                       .gops = Median(operations) / kGiga,
                       .peak_fraction = Median(of_peak),
                       .stream_gbps = Median(streamed) / kGiga,
                       .stream_fraction = of_stream.size() == runs.size()
                                              ? std::optional<double>(Median(of_stream))
                                              : std::nullopt,
                       .median = runs[runs.size() / 2]});
  }
  return results;
}

std::string BenchJson(const BenchReport& report) {
  const plan::Ceilings ceilings = MedianCeilings(report);
  nlohmann::ordered_json json = {{"model", report.model},
                                 {"weights", report.weights},
                                 {"kv_dtype", report.kv_dtype},
                                 {"isa", report.isa},
                                 {"tp", report.tp},
                                 {"threads", report.threads},
                                 {"repeats", report.runs.empty() ? 0 : report.runs[0].size()},
                                 {"read_gbps", ceilings.read / kGiga},
                                 {"peak_gops", ceilings.peak / kGiga},
                                 {"peak_instruction", report.peak_instruction},
                                 {"results", nlohmann::ordered_json::array()}};
  const std::vector<BenchResult> results = Summarize(report);
  for (size_t i = 0; i < results.size(); ++i) {
    const BenchResult& result = results[i];
    nlohmann::ordered_json parts;
    for (int part = 0; part < parallel::kStepParts; ++part) {
      parts[std::string(parallel::StepPartName(static_cast<parallel::StepPart>(part)))] =
          result.median.parts[part];
    }
    auto runs = nlohmann::ordered_json::array(), reads = runs, peaks = runs;
    for (const BenchRun& run : report.runs[i]) {
      runs.push_back(Speed(run));
      reads.push_back(run.ceilings.read / kGiga);
      peaks.push_back(run.ceilings.peak / kGiga);
    }
    json["results"].push_back({{"phase", PhaseName(result.point.phase)},
                               {"batch", result.point.batch},
                               {"context", result.point.context},
                               {"tokens_per_s", result.tokens_per_s},
                               {"gbps", result.gbps},
                               {"bandwidth_fraction", result.bandwidth_fraction},
                               {"gops", result.gops},
                               {"peak_fraction", result.peak_fraction},
                               {"seconds", result.median.seconds},
                               {"steps", result.median.steps},
                               {"parts", std::move(parts)},
                               {"runs", std::move(runs)},
                               {"runs_read_gbps", std::move(reads)},
                               {"runs_peak_gops", std::move(peaks)}});
    if (report.streamed > 0) {
      nlohmann::ordered_json& entry = json["results"].back();
      entry["stream_gbps"] = result.stream_gbps;
      entry["stream_fraction"] =
          result.stream_fraction ? nlohmann::ordered_json(*result.stream_fraction) : nullptr;
    }
  }
  json["read_gbps_runs"] = nlohmann::ordered_json::array();
  for (const plan::Ceilings& measured : report.ceilings) {
    json["read_gbps_runs"].push_back(measured.read / kGiga);
  }
  json["ranks"] = nlohmann::ordered_json::array();
  for (const BenchReport::Rank& rank : report.ranks) {
    json["ranks"].push_back(
        {{"planned_bytes", rank.planned_bytes}, {"peak_memory", rank.peak_memory}});
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string BenchTable(const BenchReport& report) {
  using parallel::StepPart;
  const plan::Ceilings ceilings = MedianCeilings(report);
  std::string out = absl::StrFormat(
      "%s: %s weights, %d %s x %d %s of %s; medians of %d\n"
      "ceilings measured in between: reads %.1f GB/s, %s %.0f GOP/s\n\n",
      report.model, report.weights, report.tp, report.tp == 1 ? "rank" : "ranks", report.threads,
      report.threads == 1 ? "thread" : "threads", report.isa,
      report.runs.empty() ? 0 : report.runs[0].size(), ceilings.read / kGiga,
      report.peak_instruction, ceilings.peak / kGiga);
  absl::StrAppendFormat(&out, "%-8s %5s %7s %10s %8s %8s %8s %8s   %% of time:", "phase", "batch",
                        "context", "tokens/s", "GB/s", "of reads", "GOP/s", "of peak");
  struct Column {
    const char* name;
    std::vector<StepPart> parts;
  };
  const std::vector<Column> columns = {
      {"QKV", {StepPart::kQkv}},
      {"attn", {StepPart::kAttention}},
      {"out", {StepPart::kOutput}},
      {"FFN", {StepPart::kFfn}},
      {"reduce", {StepPart::kAllReduce}},
      {"head", {StepPart::kHead}},
      {"sample", {StepPart::kSampling}},
      {"other", {StepPart::kIdle, StepPart::kScheduling, StepPart::kEmbedding}}};
  for (const Column& column : columns) absl::StrAppendFormat(&out, " %6s", column.name);
  out += '\n';
  for (const BenchResult& result : Summarize(report)) {
    absl::StrAppendFormat(&out, "%-8s %5d %7d %10.1f %8.2f %7.0f%% %8.1f %7.0f%%              ",
                          PhaseName(result.point.phase), result.point.batch, result.point.context,
                          result.tokens_per_s, result.gbps, result.bandwidth_fraction * 100,
                          result.gops, result.peak_fraction * 100);
    for (const Column& column : columns) {
      double seconds = 0;
      for (const StepPart part : column.parts) {
        seconds += result.median.parts[static_cast<size_t>(part)];
      }
      absl::StrAppendFormat(&out, " %6.1f", seconds / result.median.seconds * 100);
    }
    if (report.streamed > 0) {
      absl::StrAppendFormat(&out, "  weights streamed at %.2f GB/s", result.stream_gbps);
      if (result.stream_fraction) {
        absl::StrAppendFormat(&out, ", %.0f%% of copies", *result.stream_fraction * 100);
      }
    }
    out += '\n';
  }
  return out;
}

}  // namespace tandem::launcher
