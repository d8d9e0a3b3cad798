#include "launcher/command/bench_front.h"

#include <algorithm>
#include <future>
#include <optional>
#include <random>

#include "kernels/base/status_macros.h"
#include "runtime/rank/engine_setup.h"

namespace tandem::launcher {

absl::StatusOr<std::unique_ptr<BenchFront>> BenchFront::Start(
    rank::RankRuntime& runtime, const plan::ModelWork& work, int64_t max_batch,
    int64_t decode_tokens, engine::SpeculationOptions speculation) {
  std::unique_ptr<BenchFront> front(
      new BenchFront(runtime, work, decode_tokens, speculation.max_drafts));
  engine::EngineConfig config = rank::EngineConfigOf(runtime);
  // The load guard must not shrink the batch.
  config.load_guard.kv_high = config.load_guard.fragmentation_high = 1;
  config.max_num_seqs = static_cast<int32_t>(max_batch);
  config.speculation = speculation;
  config.max_queue = static_cast<int32_t>(max_batch + 1);
  TANDEM_ASSIGN_OR_RETURN(front->engine_, engine::Engine::Create(config, &front->executor_,
                                                                 {.timer = runtime.timer()}));
  front->engine_->Start();
  return front;
}

BenchFront::Mark BenchFront::Now() const {
  return {engine::Clock::now(), executor_.done(), runtime_.timer()->Totals()};
}

BenchRun BenchFront::Between(const Mark& begin, const Mark& end) const {
  BenchRun run;
  run.seconds = std::chrono::duration<double>(end.time - begin.time).count();
  run.steps = end.work.steps - begin.work.steps;
  run.tokens = end.work.tokens - begin.work.tokens;
  run.bytes = end.work.bytes - begin.work.bytes;
  run.operations = end.work.operations - begin.work.operations;
  for (size_t i = 0; i < run.parts.size(); ++i) run.parts[i] = end.parts[i] - begin.parts[i];
  return run;
}

std::vector<int32_t> BenchFront::Prompt(int64_t tokens, uint64_t seed) const {
  std::mt19937_64 random(seed);
  std::vector<int32_t> ids(tokens);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % runtime_.config().vocab_size);
  return ids;
}

absl::Status BenchFront::RunBatch(int64_t batch, int64_t context, uint64_t seed, int64_t max_tokens,
                                  absl::FunctionRef<void()> on_begin,
                                  absl::FunctionRef<bool(size_t, const engine::Event&)> on_event) {
  // Used on the engine's thread only, until `ended` is set: all requests have ended.
  absl::Status failure;
  int64_t open = batch;
  std::promise<void> ended;
  // A first, tiny request blocks the engine's thread until all others are queued, so that they
  // start in the same step.
  std::promise<void> holding, submitted, gate_ended;
  engine::Request gate;
  gate.prompt_ids = {0};
  gate.sampling = {.temperature = 0.0f, .max_tokens = 1, .ignore_eos = true};
  const auto hold = [&](const engine::Event& event) {
    holding.set_value();
    submitted.get_future().wait();
    if (!event.status.ok()) failure = event.status;
    on_begin();
    gate_ended.set_value();
    return false;
  };
  TANDEM_RETURN_IF_ERROR(engine_->Submit(std::move(gate), hold).status());
  holding.get_future().wait();  // otherwise the others could join its step
  absl::Status refused;
  for (int64_t i = 0; i < batch && refused.ok(); ++i) {
    engine::Request request;
    request.prompt_ids = Prompt(context, seed + static_cast<uint64_t>(i));
    request.sampling = {.temperature = 0.0f, .ignore_eos = true};
    request.sampling.max_tokens = static_cast<int32_t>(max_tokens);
    const auto sink = [&, i](const engine::Event& event) {
      if (!event.status.ok()) failure = event.status;
      const bool go_on = on_event(static_cast<size_t>(i), event);
      const bool over = event.finish != engine::FinishReason::kNone || !go_on;
      if (over && --open == 0) ended.set_value();
      return !over;
    };
    refused = engine_->Submit(std::move(request), sink).status();
  }
  submitted.set_value();
  gate_ended.get_future().wait();
  if (!refused.ok()) {
    engine_->Stop();  // submitted requests refer to this stack frame
    return refused;
  }
  ended.get_future().wait();
  return failure;
}

absl::StatusOr<BenchRun> BenchFront::Run(const BenchPoint& point) {
  return point.phase == BenchPhase::kPrefill ? Prefill(point) : Decode(point);
}

absl::StatusOr<BenchRun> BenchFront::Prefill(const BenchPoint& point) {
  std::optional<Mark> begin, end;
  int64_t started = 0;
  TANDEM_RETURN_IF_ERROR(RunBatch(
      point.batch, point.context, /*seed=*/(1 + prefill_runs_++) << 20, /*max_tokens=*/1,
      [&] { begin = Now(); },
      [&](size_t, const engine::Event&) {
        if (++started == point.batch) end = Now();
        return true;
      }));
  return Between(*begin, *end);
}

absl::StatusOr<BenchRun> BenchFront::Decode(const BenchPoint& point) {
  const auto seed = static_cast<uint64_t>(point.context) << 40;
  const auto nothing = [] {};
  // Prefill first, so that no sequence decodes while another is still in prefill.
  TANDEM_RETURN_IF_ERROR(RunBatch(point.batch, point.context, seed, /*max_tokens=*/1, nothing,
                                  [](size_t, const engine::Event&) { return true; }));
  std::vector<int64_t> made(static_cast<size_t>(point.batch), 0);
  std::vector<int64_t> before;  // made when the measurement began
  std::optional<Mark> begin, end;
  int64_t tokens = 0;
  const auto on_event = [&](size_t index, const engine::Event& event) {
    made[index] += static_cast<int64_t>(event.token_ids.size());
    // In a step, the events of the last sequence come last.
    if (index + 1 < made.size() || end) return !end;
    if (!begin) {
      if (*std::min_element(made.begin(), made.end()) < 2) return true;
      begin = Now();
      before = made;
      return true;
    }
    int64_t slowest = decode_tokens_;
    tokens = 0;
    for (size_t i = 0; i < made.size(); ++i) {
      slowest = std::min(slowest, made[i] - before[i]);
      tokens += made[i] - before[i];
    }
    if (slowest >= decode_tokens_) end = Now();
    return !end;
  };
  TANDEM_RETURN_IF_ERROR(RunBatch(point.batch, point.context, seed,
                                  ExtraTokens(decode_tokens_, max_drafts_), nothing, on_event));
  if (!end) return absl::InternalError("bench: a sequence ended before it was measured");
  BenchRun run = Between(*begin, *end);
  run.tokens = tokens;  // not the drafts that were wrong
  return run;
}

}  // namespace tandem::launcher
