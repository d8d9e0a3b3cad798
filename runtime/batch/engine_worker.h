// The worker of a replica's rank 0: rows through the engine, whose steps all ranks of the replica
// compute.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/batch/job.h"
#include "runtime/batch/options.h"
#include "runtime/batch/pump.h"
#include "runtime/batch/row_source.h"
#include "runtime/batch/worker.h"
#include "runtime/engine/engine.h"
#include "runtime/plan/step_work.h"
#include "runtime/rank/peer_watch.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::batch {

class EngineWorker : public Worker {
 public:
  // What it borrows, until its end.
  struct Setup {
    rank::RankRuntime& runtime;
    const JobOptions& options;
    const BatchModel& model;
    RowSource& source;                 // gets tokens and results
    plan::CountingExecutor& executor;  // around the runtime's runner
    int64_t window = 0;                // rows that it holds at most
  };
  // Rows that keep the engine's steps full while results are written. A replica among others holds
  // fewer in waiting, since the others would lack them at the end.
  static int64_t Window(const JobOptions& options, bool among_others);

  // Starts the engine's thread, and one that watches the other ranks.
  static absl::StatusOr<std::unique_ptr<EngineWorker>> Start(const Setup& setup);
  // Waits for the step in progress.
  ~EngineWorker() override;
  EngineWorker(const EngineWorker&) = delete;
  EngineWorker& operator=(const EngineWorker&) = delete;

  int replicas() const override { return 1; }
  // INTERNAL after a step failed, or when another rank has died.
  absl::Status TakeRows(RowSource& source, int64_t most) override;
  // Gives up the rows in progress, after the step in progress. Before the other ranks are shut
  // down.
  void End();

 private:
  // An error that another thread reports, once.
  struct Failure {
    absl::Status status;
    std::atomic<bool> is_set{false};
    void Set(const absl::Status& error) {
      status = error;
      is_set.store(true, std::memory_order_release);
    }
  };

  explicit EngineWorker(const Setup& setup) : window_(setup.window), executor_(setup.executor) {}
  absl::Status StartEngine(const Setup& setup);

  const int64_t window_;
  const plan::CountingExecutor& executor_;
  Failure engine_failure_, peer_failure_;
  std::optional<BatchWorker> rows_;         // outlives the engine, which reports to it
  std::unique_ptr<engine::Engine> engine_;  // ends after the watch of the other ranks
  std::optional<rank::PeerWatch> peers_;
};

}  // namespace tandem::batch
