#include "launcher/batch_stop.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace tandem::launcher {
namespace {

// Before Slurm's end of the job: a step, the journal, and the end of the ranks.
constexpr std::chrono::seconds kEndMargin{30};

}  // namespace

BatchStop::BatchStop(std::unique_ptr<server::DrainSignals> signals, double time_limit)
    : signals_(std::move(signals)) {
  if (time_limit > 0) EndIn(std::chrono::duration<double>(time_limit));
  const char* slurm_end = std::getenv("SLURM_JOB_END_TIME");
  int64_t end = 0;
  if (slurm_end != nullptr && absl::SimpleAtoi(slurm_end, &end)) {
    EndIn(std::chrono::seconds(end - std::time(nullptr)) - kEndMargin);
  }
  thread_ = std::thread([this] {
    if (const int signal = signals_->Wait(); signal != 0) signal_ = signal;
  });
}

BatchStop::~BatchStop() {
  signals_->Wake();
  thread_.join();
}

std::string BatchStop::Reason() const {
  if (signal_ != 0) return absl::StrCat("asked by SIG", sigabbrev_np(signal_));
  if (Clock::now() >= end_) return "the time limit is near";
  return "";
}

void BatchStop::EndIn(std::chrono::duration<double> left) {
  end_ = std::min(end_, Clock::now() + std::chrono::duration_cast<Clock::duration>(left));
}

}  // namespace tandem::launcher
