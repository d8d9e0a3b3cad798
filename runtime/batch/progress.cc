#include "runtime/batch/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::batch {
namespace {

constexpr char kColumnsVariable[] = "TANDEM_BAR_COLUMNS";
constexpr std::chrono::milliseconds kBarInterval{500};
constexpr int kBarWidth = 24;      // at most
constexpr int kUnknownWidth = 80;  // where the terminal does not report one
constexpr char kClearLine[] = "\r\x1b[K";

std::string Duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 60) return absl::StrFormat("%ds", whole);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
}

}  // namespace

int BarColumns() {
  int columns = 0;
  const char* passed = std::getenv(kColumnsVariable);
  if (passed != nullptr) return absl::SimpleAtoi(passed, &columns) ? columns : 0;
  const char* terminal = std::getenv("TERM");
  if (!isatty(STDERR_FILENO) || terminal == nullptr || std::strcmp(terminal, "dumb") == 0) return 0;
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kUnknownWidth;
}

void PassBarColumns() {
  const int columns = BarColumns();
  if (columns > 0) setenv(kColumnsVariable, absl::StrCat(columns).c_str(), 1);
}

void PrintLine(const std::string& line) {
  std::fprintf(stderr, "%s%s\n", BarColumns() > 0 ? kClearLine : "", line.c_str());
}

std::string Figures(const BatchCounts& counts, double seconds) {
  const double passed = std::max(1e-3, seconds);
  const int64_t here = counts.finished + counts.failed_now;
  const std::string left =
      here == 0 ? "?"
                : Duration(passed / static_cast<double>(here) * static_cast<double>(counts.left()));
  return absl::StrFormat("%d of %d rows, %d failed, %.1f tok/s, %s left", counts.before + here,
                         counts.rows, counts.failed,
                         static_cast<double>(counts.completion_tokens) / passed, left);
}

std::string BarLine(const BatchCounts& counts, double seconds, int columns) {
  std::string line = Figures(counts, seconds);
  // A terminal that is written to its last column begins a new line.
  const int most = std::max(0, columns - 1);
  const int width = std::min(kBarWidth, most - static_cast<int>(line.size()) - 3);
  if (width >= 4) {
    const int64_t done = counts.rows - counts.left();
    const auto filled = static_cast<int>(counts.rows == 0 ? width : width * done / counts.rows);
    line =
        absl::StrCat("[", std::string(filled, '#'), std::string(width - filled, '.'), "] ", line);
  }
  if (static_cast<int>(line.size()) > most) line.resize(most);
  return line;
}

BatchProgress::BatchProgress(double interval, const BatchCoordinator& coordinator)
    : coordinator_(coordinator),
      columns_(BarColumns()),
      interval_(columns_ > 0 ? Clock::duration(kBarInterval)
                             : std::chrono::duration_cast<Clock::duration>(
                                   std::chrono::duration<double>(interval))),
      next_(columns_ > 0 ? start_ : start_ + interval_) {}

double BatchProgress::seconds() const {
  return std::chrono::duration<double>(end_.value_or(Clock::now()) - start_).count();
}

void BatchProgress::Update() {
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  next_ = now + interval_;
  const BatchCounts counts = coordinator_.counts();
  if (columns_ == 0) {
    PrintLine(absl::StrCat("tandem: ", Figures(counts, seconds())));
    return;
  }
  std::fprintf(stderr, "\r%s\x1b[K", BarLine(counts, seconds(), columns_).c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void BatchProgress::End() {
  if (drawn_) std::fputs(kClearLine, stderr);
  drawn_ = false;
  end_ = Clock::now();
}

std::string SummaryJson(const BatchSummary& summary) {
  const BatchCounts& counts = summary.counts;
  nlohmann::ordered_json json;
  json["rows"] = counts.rows;
  json["finished"] = counts.finished;
  json["resumed"] = counts.before;
  json["failures"] = counts.failed;
  json["left"] = counts.left();
  json["prompt_tokens"] = counts.prompt_tokens;
  json["completion_tokens"] = counts.completion_tokens;
  json["seconds"] = summary.seconds;
  json["tokens_per_s"] =
      summary.seconds > 0 ? static_cast<double>(counts.completion_tokens) / summary.seconds : 0.0;
  json["replicas"] = summary.replicas;
  json["replicas_lost"] = summary.replicas_dead;
  json["roofline_fraction"] =
      summary.roofline_fraction > 0 ? nlohmann::ordered_json(summary.roofline_fraction) : nullptr;
  json["complete"] = !summary.stopped;
  return json.dump();
}

}  // namespace tandem::batch
