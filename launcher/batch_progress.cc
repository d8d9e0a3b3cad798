#include "launcher/batch_progress.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace tandem::launcher {
namespace {

constexpr std::chrono::milliseconds kBarInterval{500};
constexpr std::chrono::seconds kLineInterval{30};
constexpr int kBarWidth = 24;

std::string Duration(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 60) return absl::StrFormat("%ds", whole);
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
}

}  // namespace

bool DrawsBar() {
  if (std::getenv(kBarVariable) != nullptr) return true;
  const char* terminal = std::getenv("TERM");
  return isatty(STDERR_FILENO) && terminal != nullptr && std::strcmp(terminal, "dumb") != 0;
}

double BatchProgress::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

void BatchProgress::Update(const server::BatchCounts& counts) {
  const Clock::time_point now = Clock::now();
  if (now < next_) return;
  const bool first = next_ == start_;
  next_ = now + (bar_ ? Clock::duration(kBarInterval) : Clock::duration(kLineInterval));
  if (first && !bar_) return;  // nothing to tell yet
  const double passed = std::max(1e-3, seconds());
  const int64_t here = counts.finished + counts.failed_now;
  const int64_t done = counts.before + here;
  const std::string left =
      here == 0 ? "?"
                : Duration(passed / static_cast<double>(here) * static_cast<double>(counts.left()));
  const std::string figures =
      absl::StrFormat("%d of %d rows, %d failed, %.1f tok/s, %s left", done, counts.rows,
                      counts.failed, static_cast<double>(counts.completion_tokens) / passed, left);
  if (!bar_) {
    std::fprintf(stderr, "tandem: %s\n", figures.c_str());
    return;
  }
  const int filled =
      counts.rows == 0 ? kBarWidth : static_cast<int>(kBarWidth * done / counts.rows);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  std::fprintf(stderr, "\r[%s] %s\x1b[K", bar.c_str(), figures.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

void BatchProgress::End() {
  if (drawn_) std::fputs("\r\x1b[K", stderr);
  drawn_ = false;
}

std::string SummaryJson(const BatchSummary& summary) {
  const server::BatchCounts& counts = summary.counts;
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
  json["replicas_lost"] = summary.replicas_lost;
  json["roofline_fraction"] =
      summary.roofline_fraction > 0 ? nlohmann::ordered_json(summary.roofline_fraction) : nullptr;
  json["complete"] = !summary.stopped;
  return json.dump();
}

}  // namespace tandem::launcher
