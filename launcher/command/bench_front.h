// `tandem bench` on rank 0: runs the grid through the engine, as requests, so that scheduling and
// sampling are part of what is timed.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "launcher/command/bench_report.h"
#include "runtime/engine/engine.h"
#include "runtime/plan/step_work.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::launcher {

class BenchFront {
 public:
  // The runtime, which has a timer, outlives it. decode_tokens is what each sequence generates in a
  // timed run.
  static absl::StatusOr<std::unique_ptr<BenchFront>> Start(rank::RankRuntime& runtime,
                                                           const plan::ModelWork& work,
                                                           int64_t max_batch,
                                                           int64_t decode_tokens);

  // Prompts of random ids. Prefill: from when all are in the queue to the first token of the last;
  // every run has prompts of its own. Decode: `decode_tokens` steps of all sequences, from when all
  // have generated two tokens; prompts stay the same for a context, so that from the second run on
  // the prefix cache has it.
  absl::StatusOr<BenchRun> Run(const BenchPoint& point);

  // Tokens that a decoding sequence takes beyond its context.
  static int64_t ExtraTokens(int64_t decode_tokens) { return decode_tokens + 16; }

 private:
  BenchFront(rank::RankRuntime& runtime, const plan::ModelWork& work, int64_t decode_tokens)
      : runtime_(runtime), executor_(runtime.runner(), work), decode_tokens_(decode_tokens) {}

  // Where a run stands; read and written on the engine's thread.
  struct Mark {
    engine::Clock::time_point time;
    plan::StepWork work;
    parallel::StepTimer::Seconds parts{};
  };
  absl::StatusOr<BenchRun> Prefill(const BenchPoint& point);
  absl::StatusOr<BenchRun> Decode(const BenchPoint& point);
  // Greedy requests that start in one step; returns when all have ended. on_begin is called before
  // that step, on_event with a request's number in the batch for every event; false ends it.
  absl::Status RunBatch(int64_t batch, int64_t context, uint64_t seed, int64_t max_tokens,
                        absl::FunctionRef<void()> on_begin,
                        absl::FunctionRef<bool(size_t, const engine::Event&)> on_event);
  Mark Now() const;
  BenchRun Between(const Mark& begin, const Mark& end) const;
  std::vector<int32_t> Prompt(int64_t tokens, uint64_t seed) const;

  rank::RankRuntime& runtime_;
  plan::CountingExecutor executor_;
  const int64_t decode_tokens_;
  std::unique_ptr<engine::Engine> engine_;
  uint64_t prefill_runs_ = 0;
};

}  // namespace tandem::launcher
