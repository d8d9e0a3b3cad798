#include "launcher/world/notice_filter.h"

#include <regex>
#include <utility>

namespace tandem::launcher {
namespace {

// Open MPI frames its notices with lines of 74 dashes.
bool IsFrame(std::string_view line) {
  return line.size() >= 60 && line.find_first_not_of('-') == std::string_view::npos;
}

}  // namespace

std::string NoticeFilter::Feed(std::string_view bytes) {
  std::string out;
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      partial_ += bytes;
      // A line that is redrawn, such as a progress bar, is no notice.
      if (!in_notice_ && partial_[0] == '\r') out += std::exchange(partial_, std::string());
      break;
    }
    partial_ += bytes.substr(0, end);
    bytes.remove_prefix(end + 1);
    TakeLine(partial_, &out);
    partial_.clear();
  }
  return out;
}

std::string NoticeFilter::Finish() {
  std::string out = std::move(notice_) + std::move(partial_);
  notice_.clear();
  partial_.clear();
  in_notice_ = false;
  return out;
}

void NoticeFilter::TakeLine(std::string_view line, std::string* out) {
  // Every drain is such a signal; the ranks report what comes of it.
  if (line.find("run: Forwarding signal ") != std::string_view::npos) return;
  if (!in_notice_ && !IsFrame(line)) {
    out->append(line).append("\n");
    return;
  }
  notice_.append(line).append("\n");
  if (!IsFrame(line)) return;
  in_notice_ = !in_notice_;
  if (in_notice_) return;
  if (!Read(notice_)) out->append(notice_);
  notice_.clear();
}

bool NoticeFilter::Read(const std::string& notice) {
  static const std::regex killed(
      "noticed that process rank (\\d+) with PID \\d+ on node (\\S+) exited on signal (\\d+)");
  static const std::regex exited(R"(Process name: \[\[\d+,\d+\],(\d+)\]\s+Exit code:)");
  std::smatch found;
  RankEnd end;
  if (std::regex_search(notice, found, killed)) {
    end = {std::stoi(found[1]), found[2], std::stoi(found[3])};
  } else if (std::regex_search(notice, found, exited)) {
    end = {std::stoi(found[1]), "", 0};
  } else {
    // A rank that aborts has printed why, and the launcher itself reports the end of a job.
    return notice.find("MPI_ABORT was invoked") != std::string::npos ||
           notice.find("the job has been aborted") != std::string::npos;
  }
  if (!rank_end_.has_value()) rank_end_ = end;
  return true;
}

}  // namespace tandem::launcher
