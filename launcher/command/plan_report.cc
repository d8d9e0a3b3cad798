#include "launcher/command/plan_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/model/model_tensors.h"

namespace tandem::launcher {
namespace {

using plan::FormatPlan;
using plan::MemoryPlan;
using plan::RankPlan;

// GiB, or MiB where the devices are smaller than one.
struct Unit {
  const char* name;
  double bytes;
  double Of(int64_t size) const { return static_cast<double>(size) / bytes; }
};
Unit UnitFor(std::span<const FormatPlan> plans) {
  for (const FormatPlan& plan : plans) {
    for (const RankPlan& rank : plan.ranks) {
      if (rank.device >= 1 << 30) return {"GiB", 1 << 30};
    }
  }
  return {"MiB", 1 << 20};
}

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

struct Purpose {
  const char* name;
  const char* color;
  uint64_t MemoryPlan::*bytes;
};
constexpr Purpose kPurposes[] = {{"weights", "#4477aa", &MemoryPlan::weights},
                                 {"KV cache", "#66ccee", &MemoryPlan::kv},
                                 {"workspace", "#ccbb44", &MemoryPlan::workspace},
                                 {"communication", "#ee6677", &MemoryPlan::communication},
                                 {"process", "#aa3377", &MemoryPlan::process}};
constexpr Purpose kGpuPurposes[] = {{"weights", "#4477aa", &MemoryPlan::weights},
                                    {"KV cache", "#66ccee", &MemoryPlan::kv},
                                    {"workspace", "#ccbb44", &MemoryPlan::workspace},
                                    {"collectives", "#ee6677", &MemoryPlan::collectives},
                                    {"graphs", "#228833", &MemoryPlan::graphs},
                                    {"scratch", "#aa3377", &MemoryPlan::scratch}};

bool OnGpus(std::span<const FormatPlan> plans) {
  return !plans.empty() && plans[0].ranks[0].bytes.on_gpu;
}

std::span<const Purpose> PurposesOf(std::span<const FormatPlan> plans) {
  return OnGpus(plans) ? std::span<const Purpose>(kGpuPurposes) : kPurposes;
}

}  // namespace

std::string PlanTable(const loader::ModelConfig& config, const plan::PlanRequest& request,
                      std::span<const FormatPlan> plans,
                      const plan::Recommendation& recommendation) {
  const Unit unit = UnitFor(plans);
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
  const bool gpus = OnGpus(plans);
  absl::StrAppendFormat(&out, "%-6s %3s %-7s %8s %8s %8s %9s %6s %s %8s  %-9s %9s %7s\n", "format",
                        "tp", "ranks", "device", "weights", "kv", "workspace", "comm",
                        gpus ? " graphs scratch" : "process", "free", "fits", "kv tokens", "tok/s");
  for (size_t i = 0; i < plans.size(); ++i) {
    const FormatPlan& plan = plans[i];
    for (size_t first = 0; first < plan.ranks.size();) {
      size_t last = first;
      while (last + 1 < plan.ranks.size() && SameNumbers(plan.ranks[first], plan.ranks[last + 1])) {
        ++last;
      }
      const RankPlan& rank = plan.ranks[first];
      const std::string ranks =
          first == last ? absl::StrCat(first) : absl::StrCat(first, "-", last);
      const auto of = [&unit](uint64_t bytes) { return unit.Of(static_cast<int64_t>(bytes)); };
      absl::StrAppendFormat(&out, "%-6s %3d %-7s %8.2f %8.2f %8.2f %9.2f %6.2f",
                            plan::FormatName(plan.format), plan.tp, ranks, of(rank.device),
                            of(rank.bytes.weights), of(rank.bytes.kv), of(rank.bytes.workspace),
                            of(gpus ? rank.bytes.collectives : rank.bytes.communication));
      if (gpus) absl::StrAppendFormat(&out, " %7.2f", of(rank.bytes.graphs));
      absl::StrAppendFormat(&out, " %7.2f %8.2f",
                            of(gpus ? rank.bytes.scratch : rank.bytes.process),
                            unit.Of(rank.free()));
      if (first == 0) {
        absl::StrAppendFormat(&out, "  %-9s %9d %7.1f%s", plan.fits ? "yes" : "no", plan.kv_tokens,
                              plan.decode_tokens_per_s, recommendation.choice == i ? "  <" : "");
      }
      out += '\n';
      first = last + 1;
    }
  }
  if (request.stream) {
    absl::StrAppendFormat(
        &out,
        "\nWeights are streamed from %s at %.1f GB/s a rank: the column says what of them "
        "is present at once.\n",
        gpus ? "the host's memory" : "disk", request.stream_bandwidth / 1e9);
  }
  absl::StrAppend(&out, "\nSizes in ", unit.name, "; ");
  if (gpus) {
    uint64_t pinned = 0;
    for (const FormatPlan& plan : plans) {
      for (const RankPlan& rank : plan.ranks) pinned = std::max(pinned, rank.bytes.pinned);
    }
    const model::RecordingBudget recording;
    if (request.stream) {
      absl::StrAppend(&out, "steps are not recorded (graphs) while weights are streamed.");
    } else {
      absl::StrAppendFormat(&out,
                            "steps are recorded at the start for %d s at most, in %d MiB at most "
                            "(graphs).",
                            absl::ToInt64Seconds(recording.time), recording.bytes >> 20);
    }
    absl::StrAppendFormat(&out, " Of the host, a rank pins up to %d MiB%s.\n", pinned >> 20,
                          request.stream ? ", its streamed weights among them" : "");
  } else {
    absl::StrAppend(&out, "no graphs on CPUs, which hold FP8 checkpoints in 16 bits.\n");
  }
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

std::string PlanPicture(std::span<const FormatPlan> plans,
                        const plan::Recommendation& recommendation) {
  constexpr double kBar = 16, kBarGap = 3, kGroupGap = 18, kHeight = 300;
  constexpr double kLeft = 56, kTop = 44, kBottom = 64;
  double most = 1;
  double width = kLeft + kGroupGap;
  for (const FormatPlan& plan : plans) {
    for (const RankPlan& rank : plan.ranks) {
      most = std::max({most, static_cast<double>(rank.device),
                       static_cast<double>(static_cast<int64_t>(rank.device) - rank.free())});
    }
    const double bars = static_cast<double>(plan.ranks.size()) * (kBar + kBarGap);
    width += std::max(bars, 30.0) + kGroupGap;
  }
  width = std::max(width, 620.0);
  const double scale = kHeight / most;
  const double base = kTop + kHeight;
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      width, base + kBottom);
  const auto text = [&](double x, double y, const char* anchor, const std::string& what,
                        const char* color = "#222222") {
    absl::StrAppendFormat(&svg,
                          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n",
                          x, y, anchor, color, what);
  };
  const std::span<const Purpose> purposes = PurposesOf(plans);
  double legend = kLeft;
  for (const Purpose& purpose : purposes) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"12\" width=\"11\" height=\"11\" fill=\"%s\"/>\n",
                          legend, purpose.color);
    text(legend + 15, 22, "start", purpose.name);
    legend += 110;
  }
  const Unit unit = UnitFor(plans);
  double step = unit.bytes / 1024;
  while (most / step > 8) step *= 2;
  for (double at = 0; at <= most; at += step) {
    const double y = base - at * scale;
    absl::StrAppendFormat(
        &svg, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", kLeft,
        width - 8, y, y);
    text(kLeft - 6, y + 4, "end", absl::StrFormat("%g", at / unit.bytes));
  }
  text(kLeft - 6, kTop - 10, "end", unit.name);
  double x = kLeft + kGroupGap;
  for (size_t i = 0; i < plans.size(); ++i) {
    const FormatPlan& plan = plans[i];
    const double bars = static_cast<double>(plan.ranks.size()) * (kBar + kBarGap) - kBarGap;
    const double group = std::max(bars, 30.0);
    double at = x + (group - bars) / 2;
    for (const RankPlan& rank : plan.ranks) {
      double y = base;
      for (const Purpose& purpose : purposes) {
        const double height = static_cast<double>(rank.bytes.*purpose.bytes) * scale;
        y -= height;
        absl::StrAppendFormat(
            &svg, "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" fill=\"%s\"/>\n", at,
            y, kBar, height, purpose.color);
      }
      const double device = static_cast<double>(rank.device) * scale;
      absl::StrAppendFormat(
          &svg,
          "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" fill=\"none\" "
          "stroke=\"%s\"/>\n",
          at, base - device, kBar, device, rank.free() < 0 ? "#cc0000" : "#222222");
      at += kBar + kBarGap;
    }
    const double middle = x + group / 2;
    const char* color = plan.fits ? "#222222" : "#cc0000";
    text(middle, base + 15, "middle", plan::FormatName(plan.format), color);
    text(middle, base + 29, "middle", absl::StrCat("TP ", plan.tp), color);
    text(middle, base + 43, "middle",
         plan.fits ? absl::StrFormat("%.0f/s", plan.decode_tokens_per_s) : "no", color);
    if (recommendation.choice == i) text(middle, base + 58, "middle", "&#9650;");
    x += group + kGroupGap;
  }
  svg += "</svg>\n";
  return svg;
}

}  // namespace tandem::launcher
