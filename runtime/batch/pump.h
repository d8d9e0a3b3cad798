// The loop of a batch job: gives rows to workers, waits, brings results and tokens to disk at their
// intervals, shows progress, and notices why the job ends.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/progress.h"
#include "runtime/batch/row_source.h"
#include "runtime/batch/stop.h"

namespace tandem::batch {

// Who computes rows: the engine of this process, or replicas in other processes.
class Worker {
 public:
  virtual ~Worker() = default;

  // Replicas that this worker stands for and that work.
  virtual int replicas() const = 0;
  // Takes rows from `source` for replicas that have room, up to `most` rows at a time with each.
  // Does not wait for their results. An error is final: the job cannot go on.
  virtual absl::Status TakeRows(RowSource& source, int64_t most) = 0;
};

struct PumpOptions {
  RowSource& source;
  std::vector<Worker*> workers;
  const BatchStop* stop = nullptr;    // null: the source alone decides
  BatchProgress* progress = nullptr;  // null: not shown
};

struct PumpResult {
  enum class Ending {
    kAllDone,
    kStopped,       // rows are left; stop_reason says why
    kOutputFailed,  // results cannot be written; `error`
    kWorkerFailed,  // a worker cannot go on; `error`
  };

  Ending ending = Ending::kAllDone;
  std::string stop_reason;
  absl::Status error;
};

// Runs until one of the endings. What was known by then has been flushed, but for kOutputFailed.
PumpResult PumpRows(const PumpOptions& options);

}  // namespace tandem::batch
