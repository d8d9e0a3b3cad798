#include "runtime/batch/stop.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/rank/exit_code.h"

namespace tandem::batch {
namespace {

// Left before Slurm ends the job: for a step, the journal, and the end of the ranks.
constexpr std::chrono::seconds kEndMargin{30};

}  // namespace

BatchStop::BatchStop(std::unique_ptr<server::DrainSignals> signals, double time_limit,
                     bool leaves_early)
    : signals_(std::move(signals)) {
  if (time_limit > 0) EndIn(std::chrono::duration<double>(time_limit));
  const char* slurm_end = std::getenv("SLURM_JOB_END_TIME");
  int64_t end = 0;
  if (slurm_end != nullptr && absl::SimpleAtoi(slurm_end, &end)) {
    EndIn(std::chrono::seconds(end - std::time(nullptr)) - kEndMargin);
  }
  thread_ = std::thread([this, leaves_early] {
    const int signal = signals_->Wait();
    if (signal == 0) return;
    signal_ = signal;
    if (!leaves_early || rows_begun_) return;
    std::fprintf(stderr,
                 "tandem: stopping, %s, before the first row began: run the same command again\n",
                 Reason().c_str());
    _exit(rank::kExitRequeue);
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

}  // namespace tandem::batch
