// The chart of `tandem bench`: SVG, written by hand. One row per point.
#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "launcher/command/bench_report.h"

namespace tandem::launcher {
namespace {

// Pixels. From left to right: the point, its speed, its fractions, its time by part.
constexpr int kWidth = 1150;
constexpr int kTop = 112;
constexpr int kRow = 52;
constexpr int kBar = 16;
constexpr int kLabelX = 24;
constexpr int kSpeedX = 300;  // right edge
constexpr int kFractionX = 324;
constexpr int kFractionWidth = 300;
constexpr int kPartsX = 700;
constexpr int kPartsWidth = 425;

constexpr const char* kReadColor = "#2563a8";
constexpr const char* kPeakColor = "#d9822b";
// In the order of StepPart. Neighbouring parts differ in lightness too.
constexpr const char* kPartColors[parallel::kStepParts] = {
    "#d4d4d4", "#8a8a8a", "#b9a26a", "#1f6f8b", "#8fc1d4",
    "#3a4f7a", "#4f9d69", "#c0392b", "#a88bc2", "#e2b93b"};

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

std::string Rect(double x, double y, double width, double height, const char* fill) {
  return absl::StrFormat(
      "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y,
      std::max(width, 0.0), height, fill);
}

std::string Text(double x, double y, const std::string& text, const char* attributes = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, attributes,
                         Escape(text));
}

// A bar on a scale from 0 to 1, followed by its value.
std::string FractionBar(double y, double fraction, const char* color) {
  const double width = std::min(fraction, 1.1) * kFractionWidth;
  return Rect(kFractionX, y, width, kBar, color) + Text(kFractionX + width + 5, y + 12,
                                                        absl::StrFormat("%.0f %%", fraction * 100),
                                                        "font-size=\"11\" fill=\"#444\"");
}

std::string Legend() {
  std::string out;
  double x = kFractionX;
  for (const auto& [color, name] :
       {std::pair{kReadColor, "of read bandwidth"}, std::pair{kPeakColor, "of peak arithmetic"}}) {
    out += Rect(x, 78, 10, 10, color) + Text(x + 14, 87, name, "font-size=\"11\"");
    x += 130;
  }
  for (int part = 0; part < parallel::kStepParts; ++part) {
    const double column = kPartsX + part % 5 * 87;
    const double row = 64 + part / 5 * 16;
    out += Rect(column, row, 10, 10, kPartColors[part]) +
           Text(column + 13, row + 9,
                std::string(parallel::StepPartName(static_cast<parallel::StepPart>(part))),
                "font-size=\"11\"");
  }
  return out;
}

}  // namespace

std::string BenchChart(const BenchReport& report) {
  const std::vector<BenchResult> results = Summarize(report);
  const int bottom = kTop + kRow * static_cast<int>(results.size());
  const int height = bottom + 40;
  std::vector<double> reads, peaks;
  for (const plan::Ceilings& ceilings : report.ceilings) {
    reads.push_back(ceilings.read * 1e-9);
    peaks.push_back(ceilings.peak * 1e-9);
  }
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
      "viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">\n",
      kWidth, height, kWidth, height);
  out += Rect(0, 0, kWidth, height, "#ffffff");
  out += Text(kLabelX, 30,
              absl::StrFormat("%s: %s weights, %d x %d threads of %s", report.model, report.weights,
                              report.tp, report.threads, report.isa),
              "font-size=\"16\" font-weight=\"bold\"");
  out += Text(kLabelX, 50,
              absl::StrFormat("medians of %d runs; reads %.1f GB/s, %s %.0f GOP/s, measured "
                              "between the runs",
                              report.runs.empty() ? 0 : report.runs[0].size(), Median(reads),
                              report.peak_instruction, Median(peaks)),
              "fill=\"#555\"");
  out += Text(kSpeedX, 87, "tokens/s", "text-anchor=\"end\" font-size=\"11\"");
  out += Legend();
  for (int tenth = 0; tenth <= 10; tenth += 2) {
    const double x = kFractionX + tenth * kFractionWidth / 10.0;
    out += absl::StrFormat("<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"%s\"/>\n", x,
                           kTop - 8, x, bottom, tenth == 10 ? "#999" : "#e4e4e4");
    out += Text(x, bottom + 16, absl::StrFormat("%d %%", tenth * 10),
                "text-anchor=\"middle\" font-size=\"11\" fill=\"#777\"");
  }
  out += Text(kPartsX, bottom + 16, "fraction of the time, on rank 0",
              "font-size=\"11\" fill=\"#777\"");
  for (size_t i = 0; i < results.size(); ++i) {
    const BenchResult& result = results[i];
    const double y = kTop + kRow * static_cast<double>(i);
    out += Text(kLabelX, y + 21,
                absl::StrFormat("%s, %d x %d tokens", PhaseName(result.point.phase),
                                result.point.batch, result.point.context));
    out += Text(kSpeedX, y + 21, absl::StrFormat("%.1f", result.tokens_per_s),
                "text-anchor=\"end\" font-weight=\"bold\"");
    out += FractionBar(y, result.bandwidth_fraction, kReadColor);
    out += FractionBar(y + kBar + 2, result.peak_fraction, kPeakColor);
    double x = kPartsX;
    for (int part = 0; part < parallel::kStepParts; ++part) {
      const double width = result.median.parts[part] / result.median.seconds * kPartsWidth;
      out += Rect(x, y, width, 2 * kBar + 2, kPartColors[part]);
      x += width;
    }
  }
  return out + "</svg>\n";
}

}  // namespace tandem::launcher
