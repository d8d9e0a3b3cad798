#include "launcher/command/plan_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/command/plan_units.h"
#include "runtime/model/decoder.h"
#include "runtime/model/model_tensors.h"

namespace tandem::launcher {
namespace {

using plan::FormatPlan;
using plan::RankPlan;

bool SameNumbers(const RankPlan& a, const RankPlan& b) {
  return a.device == b.device && a.bytes.weights == b.bytes.weights && a.bytes.kv == b.bytes.kv &&
         a.bytes.workspace == b.bytes.workspace && a.bytes.communication == b.bytes.communication &&
         a.bytes.collectives == b.bytes.collectives;
}

uint64_t Parameters(const loader::ModelConfig& config) {
  uint64_t count = 0;
  for (const loader::ExpectedTensor& tensor : model::ExpectedTensors(config, nullptr)) {
    count +=
        std::accumulate(tensor.shape.begin(), tensor.shape.end(), uint64_t{1}, std::multiplies<>());
  }
  return count;
}

// The model, its size in each format, the requested streams, and the titles of the columns.
std::string TableHeading(const loader::ModelConfig& config, const plan::PlanRequest& request,
                         const MemoryUnit& unit, bool gpus) {
  std::string out =
      absl::StrFormat("%s, %d layers, %.2f billion parameters; stored:", config.architecture,
                      config.num_layers, static_cast<double>(Parameters(config)) / 1e9);
  for (const plan::Format format : plan::kFormats) {
    absl::StrAppendFormat(
        &out, "%s %s %.2f %s", format == plan::kFormats[0] ? "" : ",", plan::FormatName(format),
        unit.Of(static_cast<int64_t>(plan::StorageBytes(config, format))), unit.name);
  }
  absl::StrAppendFormat(&out,
                        "\n%d stream%s of %d tokens, KV cache in %s; tok/s of one stream at that "
                        "length, %.0f us an all-reduce\n\n",
                        request.streams, request.streams == 1 ? "" : "s", request.context,
                        std::string(kernels::KvDTypeName(request.kv_dtype)),
                        request.all_reduce_seconds * 1e6);
  absl::StrAppendFormat(&out, "%-6s %3s %-7s %8s %8s %8s %9s %6s %s %8s  %-9s %9s %7s\n", "format",
                        "tp", "ranks", "device", "weights", "kv", "workspace", "comm",
                        gpus ? " graphs scratch" : "  embed process", "free", "fits", "kv tokens",
                        "tok/s");
  return out;
}

// The memory of ranks first to last of a plan, which have equal numbers. Without a line end.
std::string MemoryColumns(const FormatPlan& plan, size_t first, size_t last,
                          const MemoryUnit& unit) {
  const RankPlan& rank = plan.ranks[first];
  const bool gpu = rank.bytes.on_gpu;
  const std::string ranks = first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
  const auto of = [&unit](uint64_t bytes) { return unit.Of(static_cast<int64_t>(bytes)); };
  std::string out = absl::StrFormat(
      "%-6s %3d %-7s %8.2f %8.2f %8.2f %9.2f %6.2f", plan::FormatName(plan.format), plan.tp, ranks,
      of(rank.device), of(rank.bytes.weights), of(rank.bytes.kv), of(rank.bytes.workspace),
      of(gpu ? rank.bytes.collectives : rank.bytes.communication));
  absl::StrAppendFormat(&out, " %7.2f", of(gpu ? rank.bytes.graphs : rank.bytes.embedding));
  absl::StrAppendFormat(&out, " %7.2f %8.2f", of(gpu ? rank.bytes.scratch : rank.bytes.process),
                        unit.Of(rank.free()));
  return out;
}

// One line for each range of ranks with equal numbers; the first says what the plan as a whole
// gives.
std::string PlanLines(const FormatPlan& plan, const MemoryUnit& unit, bool recommended) {
  std::string out;
  for (size_t first = 0; first < plan.ranks.size();) {
    size_t last = first;
    while (last + 1 < plan.ranks.size() && SameNumbers(plan.ranks[first], plan.ranks[last + 1])) {
      ++last;
    }
    out += MemoryColumns(plan, first, last, unit);
    if (first == 0) {
      absl::StrAppendFormat(&out, "  %-9s %9d %7.1f%s", plan.fits ? "yes" : "no", plan.kv_tokens,
                            plan.decode_tokens_per_s, recommended ? "  <" : "");
    }
    out += '\n';
    first = last + 1;
  }
  return out;
}

std::string GpuNotes(const plan::PlanRequest& request, std::span<const FormatPlan> plans) {
  uint64_t pinned = 0;
  for (const FormatPlan& plan : plans) {
    for (const RankPlan& rank : plan.ranks) pinned = std::max(pinned, rank.bytes.pinned);
  }
  const model::RecordingBudget recording;
  std::string out =
      request.stream
          ? "steps are not recorded (graphs) while weights are streamed."
          : absl::StrFormat(
                "steps are recorded at the start for %d s at most, in %d MiB at most (graphs).",
                absl::ToInt64Seconds(recording.time), recording.bytes >> 20);
  absl::StrAppendFormat(&out, " Of the host, a rank pins up to %d MiB%s.\n", pinned >> 20,
                        request.stream ? ", its streamed weights among them" : "");
  return out;
}

}  // namespace

std::string PlanTable(const loader::ModelConfig& config, const plan::PlanRequest& request,
                      std::span<const FormatPlan> plans,
                      const plan::Recommendation& recommendation) {
  const MemoryUnit unit = UnitFor(plans);
  const bool gpus = OnGpus(plans);
  std::string out = TableHeading(config, request, unit, gpus);
  for (size_t i = 0; i < plans.size(); ++i) {
    out += PlanLines(plans[i], unit, recommendation.choice == i);
  }
  if (request.stream) {
    absl::StrAppendFormat(
        &out,
        "\nWeights are streamed from %s at %.1f GB/s a rank: the column says what of them "
        "is present at once.\n",
        gpus ? "the host's memory" : "disk", request.stream_bandwidth / 1e9);
  }
  absl::StrAppend(&out, "\nSizes in ", unit.name, "; ",
                  gpus ? GpuNotes(request, plans)
                       : "no graphs on CPUs, which hold FP8 checkpoints in 16 bits.\n");
  absl::StrAppend(&out, recommendation.choice.has_value() ? "Recommended: " : "Not possible: ",
                  recommendation.reason, ".\n");
  return out;
}

std::string PlanJson(std::span<const FormatPlan> plans) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const FormatPlan& plan : plans) {
    nlohmann::ordered_json entry;
    entry["format"] = plan::FormatName(plan.format);
    entry["tp"] = plan.tp;
    entry["ranks"] = nlohmann::ordered_json::array();
    for (const RankPlan& rank : plan.ranks) {
      entry["ranks"].push_back({{"weights", rank.bytes.weights},
                                {"kv", rank.bytes.kv},
                                {"embedding", rank.bytes.embedding},
                                {"workspace", rank.bytes.workspace},
                                {"communication", rank.bytes.communication},
                                {"free", rank.free()}});
      if (rank.bytes.streamed > 0) entry["ranks"].back()["streamed"] = rank.bytes.streamed;
      if (rank.bytes.on_gpu) {
        entry["ranks"].back().update({{"collectives", rank.bytes.collectives},
                                      {"graphs", rank.bytes.graphs},
                                      {"scratch", rank.bytes.scratch},
                                      {"pinned", rank.bytes.pinned}});
      }
    }
    entry["fits"] = plan.fits;
    entry["decode_tokens_per_s"] = plan.decode_tokens_per_s;
    list.push_back(std::move(entry));
  }
  return list.dump(2);
}

}  // namespace tandem::launcher
