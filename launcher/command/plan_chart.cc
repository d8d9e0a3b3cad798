// The chart of `tandem plan`: SVG, written by hand. One group of bars for each plan.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/command/plan_report.h"
#include "launcher/command/plan_units.h"

namespace tandem::launcher {
namespace {

using plan::FormatPlan;
using plan::MemoryPlan;
using plan::RankPlan;

// Pixels.
constexpr double kBar = 16, kBarGap = 3, kGroupGap = 18, kMinGroup = 30, kHeight = 300;
constexpr double kLeft = 56, kTop = 44, kBottom = 64, kMinWidth = 620;
constexpr double kBase = kTop + kHeight;  // y of zero bytes

constexpr const char* kBlack = "#222222";
constexpr const char* kRed = "#cc0000";  // does not fit

struct Purpose {
  const char* name;
  const char* color;
  uint64_t MemoryPlan::*bytes;
};
constexpr Purpose kPurposes[] = {{"weights", "#4477aa", &MemoryPlan::weights},
                                 {"embedding", "#228833", &MemoryPlan::embedding},
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

std::span<const Purpose> PurposesOf(std::span<const FormatPlan> plans) {
  return OnGpus(plans) ? std::span<const Purpose>(kGpuPurposes) : kPurposes;
}

double BarsWidth(const FormatPlan& plan) {
  return static_cast<double>(plan.ranks.size()) * (kBar + kBarGap);
}

double ChartWidth(std::span<const FormatPlan> plans) {
  double width = kLeft + kGroupGap;
  for (const FormatPlan& plan : plans) width += std::max(BarsWidth(plan), kMinGroup) + kGroupGap;
  return std::max(width, kMinWidth);
}

// The most bytes that a device has, or that a rank needs.
double MostBytes(std::span<const FormatPlan> plans) {
  double most = 1;
  for (const FormatPlan& plan : plans) {
    for (const RankPlan& rank : plan.ranks) {
      most = std::max({most, static_cast<double>(rank.device),
                       static_cast<double>(static_cast<int64_t>(rank.device) - rank.free())});
    }
  }
  return most;
}

void AddText(std::string& svg, double x, double y, const char* anchor, const std::string& text,
             const char* color = kBlack) {
  absl::StrAppendFormat(&svg,
                        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"%s\">%s</text>\n", x,
                        y, anchor, color, text);
}

void AddLegend(std::string& svg, std::span<const Purpose> purposes) {
  double x = kLeft;
  for (const Purpose& purpose : purposes) {
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"12\" width=\"11\" height=\"11\" fill=\"%s\"/>\n", x,
                          purpose.color);
    AddText(svg, x + 15, 22, "start", purpose.name);
    x += 110;
  }
}

// Horizontal lines with their sizes.
void AddGrid(std::string& svg, const MemoryUnit& unit, double most, double width) {
  const double scale = kHeight / most;
  double step = unit.bytes / 1024;
  while (most / step > 8) step *= 2;
  for (double at = 0; at <= most; at += step) {
    const double y = kBase - at * scale;
    absl::StrAppendFormat(
        &svg, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", kLeft,
        width - 8, y, y);
    AddText(svg, kLeft - 6, y + 4, "end", absl::StrFormat("%g", at / unit.bytes));
  }
  AddText(svg, kLeft - 6, kTop - 10, "end", unit.name);
}

// A rank: its memory by purpose, and its device's memory as a frame.
void AddBar(std::string& svg, const RankPlan& rank, std::span<const Purpose> purposes, double x,
            double scale) {
  double y = kBase;
  for (const Purpose& purpose : purposes) {
    const double height = static_cast<double>(rank.bytes.*purpose.bytes) * scale;
    y -= height;
    absl::StrAppendFormat(
        &svg, "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" fill=\"%s\"/>\n", x, y,
        kBar, height, purpose.color);
  }
  const double device = static_cast<double>(rank.device) * scale;
  absl::StrAppendFormat(&svg,
                        "<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" fill=\"none\" "
                        "stroke=\"%s\"/>\n",
                        x, kBase - device, kBar, device, rank.free() < 0 ? kRed : kBlack);
}

// What stands below a plan's bars.
void AddCaption(std::string& svg, const FormatPlan& plan, double middle, bool recommended) {
  const char* color = plan.fits ? kBlack : kRed;
  AddText(svg, middle, kBase + 15, "middle", plan::FormatName(plan.format), color);
  AddText(svg, middle, kBase + 29, "middle", absl::StrCat("TP ", plan.tp), color);
  AddText(svg, middle, kBase + 43, "middle",
          plan.fits ? absl::StrFormat("%.0f/s", plan.decode_tokens_per_s) : "no", color);
  if (recommended) AddText(svg, middle, kBase + 58, "middle", "&#9650;");
}

}  // namespace

std::string PlanChart(std::span<const FormatPlan> plans,
                      const plan::Recommendation& recommendation) {
  const double width = ChartWidth(plans);
  const double most = MostBytes(plans);
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"sans-serif\" font-size=\"11\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
      width, kBase + kBottom);
  const std::span<const Purpose> purposes = PurposesOf(plans);
  AddLegend(svg, purposes);
  AddGrid(svg, UnitFor(plans), most, width);
  double x = kLeft + kGroupGap;
  for (size_t i = 0; i < plans.size(); ++i) {
    const double bars = BarsWidth(plans[i]) - kBarGap;
    const double group = std::max(bars, kMinGroup);
    double at = x + (group - bars) / 2;
    for (const RankPlan& rank : plans[i].ranks) {
      AddBar(svg, rank, purposes, at, kHeight / most);
      at += kBar + kBarGap;
    }
    AddCaption(svg, plans[i], x + group / 2, recommendation.choice == i);
    x += group + kGroupGap;
  }
  return svg + "</svg>\n";
}

}  // namespace tandem::launcher
