// `tandem bench` on rank 0: sends requests through the engine, so that scheduling and sampling are
// timed too.
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
  // The runtime must have a timer, and outlives the front. Each sequence generates `decode_tokens`
  // tokens in a timed run.
  static absl::StatusOr<std::unique_ptr<BenchFront>> Start(rank::RankRuntime& runtime,
                                                           const plan::ModelWork& work,
                                                           int64_t max_batch, int64_t decode_tokens,
                                                           engine::SpeculationOptions speculation);

  // Times one run; prompts are random ids. Prefill: from the moment when all requests are queued to
  // the first token of the last one; every run has new prompts. Decode: until each sequence has
  // generated `decode_tokens` tokens more, once each has generated two; without drafts that is one
  // token of all sequences in each step. Runs of a context repeat their prompts, so that the prefix
  // cache has them from the second run on.
  absl::StatusOr<BenchRun> Run(const BenchPoint& point);

  // Tokens that a decoding sequence needs in addition to its context: with drafts, one may be far
  // ahead of the others.
  static int64_t ExtraTokens(int64_t decode_tokens, int64_t max_drafts) {
    return decode_tokens * (1 + max_drafts) + 16;
  }

 private:
  BenchFront(rank::RankRuntime& runtime, const plan::ModelWork& work, int64_t decode_tokens,
             int64_t max_drafts)
      : runtime_(runtime),
        executor_(runtime.runner(), work),
        decode_tokens_(decode_tokens),
        max_drafts_(max_drafts) {}

  // The counters at one moment of a run; read and written on the engine's thread.
  struct Mark {
    engine::Clock::time_point time;
    plan::StepWork work;
    parallel::StepTimer::Seconds parts{};
  };
  absl::StatusOr<BenchRun> Prefill(const BenchPoint& point);
  absl::StatusOr<BenchRun> Decode(const BenchPoint& point);
  // Runs greedy requests that start in the same step; returns when all have ended. Calls on_begin
  // before that step, and on_event for every event, with the request's number in the batch; a
  // request ends when on_event returns false.
  absl::Status RunBatch(int64_t batch, int64_t context, uint64_t seed, int64_t max_tokens,
                        absl::FunctionRef<void()> on_begin,
                        absl::FunctionRef<bool(size_t, const engine::Event&)> on_event);
  Mark Now() const;
  BenchRun Between(const Mark& begin, const Mark& end) const;
  std::vector<int32_t> Prompt(int64_t tokens, uint64_t seed) const;

  rank::RankRuntime& runtime_;
  plan::CountingExecutor executor_;
  const int64_t decode_tokens_;
  const int64_t max_drafts_;
  std::unique_ptr<engine::Engine> engine_;
  uint64_t prefill_runs_ = 0;
};

}  // namespace tandem::launcher
