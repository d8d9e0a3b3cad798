#include "runtime/batch/pump.h"

#include <algorithm>
#include <chrono>

namespace tandem::batch {
namespace {

using Clock = std::chrono::steady_clock;
using Ending = PumpResult::Ending;

// Between two writes of results, and between two of the tokens of unfinished rows.
constexpr std::chrono::milliseconds kResultInterval{50};
constexpr std::chrono::milliseconds kTokenInterval{1000};
constexpr std::chrono::milliseconds kLongestWait{100};

class FlushSchedule {
 public:
  // Flushes what is due.
  absl::Status Flush(RowSource& source) {
    const Clock::time_point now = Clock::now();
    if (now < next_results_) return absl::OkStatus();
    const bool with_tokens = now >= next_tokens_;
    const absl::Status flushed = source.Flush(with_tokens);
    next_results_ = Clock::now() + kResultInterval;
    if (with_tokens) next_tokens_ = Clock::now() + kTokenInterval;
    return flushed;
  }

 private:
  Clock::time_point next_results_ = Clock::now();
  Clock::time_point next_tokens_ = next_results_ + kTokenInterval;
};

// Rows that one replica may hold: no more than its part of what is left. Near the end this gets
// small, so that no replica has rows waiting while another has nothing to do.
int64_t RowsPerReplica(const PumpOptions& options) {
  int64_t replicas = 0;
  for (const Worker* worker : options.workers) replicas += worker->replicas();
  replicas = std::max<int64_t>(1, replicas);
  const int64_t left = options.source.rows_left();
  return left / replicas + (left % replicas > 0 ? 1 : 0);
}

absl::Status GiveRows(const PumpOptions& options) {
  const int64_t most = RowsPerReplica(options);
  for (Worker* worker : options.workers) {
    if (absl::Status taken = worker->TakeRows(options.source, most); !taken.ok()) return taken;
  }
  return absl::OkStatus();
}

std::string StopReason(const PumpOptions& options) {
  std::string reason = options.source.stop_reason();
  if (reason.empty() && options.stop != nullptr) reason = options.stop->Reason();
  return reason;
}

PumpResult PumpUntilEnd(const PumpOptions& options) {
  FlushSchedule schedule;
  while (!options.source.all_done()) {
    if (std::string reason = StopReason(options); !reason.empty()) {
      return {Ending::kStopped, std::move(reason)};
    }
    if (absl::Status given = GiveRows(options); !given.ok()) {
      return {Ending::kWorkerFailed, "", std::move(given)};
    }
    options.source.Wait(kLongestWait);
    if (absl::Status flushed = schedule.Flush(options.source); !flushed.ok()) {
      return {Ending::kOutputFailed, "", std::move(flushed)};
    }
    if (options.progress != nullptr) options.progress->Update();
  }
  return {};
}

}  // namespace

PumpResult PumpRows(const PumpOptions& options) {
  PumpResult result = PumpUntilEnd(options);
  if (result.ending != Ending::kOutputFailed) {
    absl::Status flushed = options.source.Flush(/*with_tokens=*/true);
    // The failure of a worker came first and explains the rest.
    if (!flushed.ok() && result.ending != Ending::kWorkerFailed) {
      result = {Ending::kOutputFailed, "", std::move(flushed)};
    }
  }
  if (options.progress != nullptr) options.progress->End();
  return result;
}

}  // namespace tandem::batch
