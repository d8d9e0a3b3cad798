// The loop of rank 0: it takes requests, runs steps through a StepExecutor and emits events.
//
// Start starts one thread, which does all of this. Before it schedules a step, the thread takes new
// requests from the bounded queue, applies cancels and ends requests whose deadline has passed, so
// an ended request never costs another step. Without work the thread sleeps on a condition
// variable.
//
// An error of the executor is final: every open choice ends with kError and UNAVAILABLE, on_failure
// is called once, and Submit answers UNAVAILABLE from then on. The executor must limit every wait
// inside Execute; Stop waits for the step in progress.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/step_timer.h"
#include "runtime/engine/engine_client.h"
#include "runtime/engine/engine_config.h"
#include "runtime/engine/engine_metrics.h"
#include "runtime/engine/load_guard.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/scheduler.h"
#include "runtime/engine/speculation.h"
#include "runtime/engine/step_executor.h"
#include "runtime/engine/step_plan.h"

namespace tandem::engine {

// The engine calls all of them on its thread.
struct EngineHooks {
  // Called every idle_interval while there is no work; 0: never. Its error is final, as an
  // executor's error is.
  std::function<absl::Status()> on_idle;
  std::chrono::milliseconds idle_interval{0};
  // Called once, after the last events, with the executor's or on_idle's error.
  std::function<void(const absl::Status&)> on_failure;
  // Called after each action of the load guard. May be null.
  std::function<void(const LoadGuardAction&)> on_load_guard;
  // Measures idling, scheduling and sampling; outlives the engine. May be null.
  parallel::StepTimer* timer = nullptr;
  // Receives what EngineStats does not hold; outlives the engine. May be null.
  EngineMetrics* metrics = nullptr;
};

struct OpenChoice;
struct OpenRequest;

class Engine : public EngineClient {
 public:
  // INVALID_ARGUMENT names the field of `config` that is out of range.
  // `executor` is not owned and outlives the engine; it is called on the
  // engine's thread alone. Requests are accepted at once and served from Start.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(EngineConfig config, StepExecutor* executor,
                                                        EngineHooks hooks = {});

  // Stops.
  ~Engine() override;

  // Once, before anything but Submit and Cancel.
  void Start();

  // Refuses new requests and waits until the open ones have ended. DEADLINE_EXCEEDED if some
  // remain: these end with kError and UNAVAILABLE before the next step. Not on the engine's thread.
  absl::Status Drain(Clock::time_point deadline);

  // Refuses new requests, ends the open ones with kError and UNAVAILABLE after
  // the step in progress, and joins the thread. Idempotent. Not on the engine's
  // thread.
  void Stop();

  // As EngineClient; also INVALID_ARGUMENT for sampling parameters out of range and for a request
  // that could outgrow the KV cache. n choices take n places in the queue.
  absl::StatusOr<RequestId> Submit(Request request, EventSink sink) override;
  void Cancel(RequestId request) override;
  EngineStats Stats() const override;
  EngineLimits Limits() const override;

  // OK, or the error that made the engine fail.
  absl::Status Failure() const;

 private:
  Engine(EngineConfig config, StepExecutor* executor, EngineHooks hooks);

  void Run();
  // Sleeps until there is something to do, then takes it. False: the loop ends.
  bool TakeCommands(absl::Status* failure);
  void Admit();
  void ApplyCancels();
  void ExpireDeadlines(Clock::time_point now);
  // Asks the load guard and carries out what it decides, before a step is scheduled.
  void ApplyLoadGuard(Clock::time_point now);
  absl::Status Step();
  // Without logits. Of the token after the known ones and the first `drafts` drafts.
  SampleInput InputOf(const ScheduledSequence& entry, int32_t drafts) const;
  // Fills the plan's sampling requests if the executor's ranks can survey rows.
  void RequestSurveys();
  // Chooses tokens from the surveys, into chosen_, and fetches the rows for which they do not
  // suffice.
  absl::Status ChooseSurveyed();
  // All ranks have just answered: the metrics hold when.
  void NoteRanksAnswered();
  // Writes the step that has just been computed to the metrics.
  void RecordStepMetrics();
  // Samples after the known tokens, and on after each draft that the sampled token equals.
  void AcceptRows(const ScheduledSequence& entry, Clock::time_point now);
  // Samples from one of the entry's rows and reports the token. False: the choice has ended.
  bool Accept(const ScheduledSequence& entry, int32_t row, Clock::time_point now);
  void EndRequest(OpenRequest& request, FinishReason reason, const absl::Status& status);
  void EndAll(const absl::Status& status);
  // Ends a choice, with an event unless its sink asked for the end. The last choice takes the
  // request with it: the references are dead afterwards.
  void Finish(OpenRequest& request, OpenChoice& choice, FinishReason reason,
              const absl::Status& status, bool emit);
  // Hands the sink an event. False: the sink asks for the choice's end.
  bool Emit(OpenRequest& request, OpenChoice& choice, FinishReason reason,
            const absl::Status& status);
  void PublishStats();
  void Fail(const absl::Status& status);

  // Blocks that one step moves at most: some milliseconds of copying.
  static constexpr int32_t kMaxBlockMovesPerStep = 16;

  const EngineConfig config_;
  StepExecutor* const executor_;
  const EngineHooks hooks_;
  std::thread thread_;

  // Shared between threads, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;     // the engine's thread: something to do
  std::condition_variable drained_;  // Drain: nothing open
  std::vector<std::unique_ptr<OpenRequest>> incoming_;
  std::vector<RequestId> cancels_;
  RequestId next_request_ = 1;
  int64_t queued_ = 0;  // choices that wait for their first step, incoming_ included
  int64_t incoming_choices_ = 0;
  int64_t open_requests_ = 0;  // incoming_ included
  bool draining_ = false;      // no new requests
  bool end_open_ = false;      // a drain's deadline has passed
  bool stop_ = false;
  bool started_ = false;
  absl::Status failure_;
  EngineStats stats_;

  // The engine's thread alone (Stop's, where Start never was).
  Scheduler scheduler_;
  Sampler sampler_;
  LoadGuard load_guard_;
  Speculation speculation_;
  StepPlan plan_;
  std::unique_ptr<float[]> logits_;  // [max rows, vocab]
  std::vector<int32_t> chosen_;      // [rows]: the token, or -1: sample from the row's logits
  std::vector<int32_t> fetched_;     // rows whose logits were fetched after the step
  std::map<RequestId, std::unique_ptr<OpenRequest>> requests_;
  std::vector<std::unique_ptr<OpenRequest>> taken_;
  std::vector<RequestId> taken_cancels_;
  bool end_all_ = false;
  uint64_t next_arrival_ = 1;
  Clock::time_point next_deadline_ = Clock::time_point::max();  // none is earlier
  Sample sample_;
  Event event_;
  EngineStats work_;         // counters, copied to stats_ by PublishStats
  int64_t first_steps_ = 0;  // choices that left the queue since PublishStats
  int64_t closed_ = 0;       // requests that ended since PublishStats
};

}  // namespace tandem::engine
