#include "runtime/engine/engine.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::engine {
namespace {

// Blocks that one step moves at most: some milliseconds of copying.
constexpr int32_t kMovesPerStep = 16;

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

absl::Status CheckAtLeast(const char* field, int64_t found, int64_t least) {
  if (found >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("engine config: ", field, " is ", found, ", expected at least ", least));
}

absl::Status Check(const EngineConfig& config) {
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("vocab_size", config.vocab_size, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_model_len", config.max_model_len, 2));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("num_blocks", config.num_blocks, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_num_seqs", config.max_num_seqs, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_batched_tokens", config.max_batched_tokens, 1));
  TANDEM_RETURN_IF_ERROR(CheckAtLeast("max_queue", config.max_queue, 1));
  if (const absl::Status status = CheckWatchOptions(config.watch); !status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine config: ", std::string(status.message())));
  }
  if (config.vocab_size > Sampler::kMaxVocabSize) {
    return absl::InvalidArgumentError(absl::StrCat("engine config: vocab_size is ",
                                                   config.vocab_size, ", at most ",
                                                   Sampler::kMaxVocabSize, " are supported"));
  }
  // Slots are block * kBlockSize + offset in 32 bits.
  if (config.num_blocks > INT32_MAX / model::kBlockSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine config: num_blocks is ", config.num_blocks, ", at most ",
                     INT32_MAX / model::kBlockSize, " can be addressed"));
  }
  return absl::OkStatus();
}

}  // namespace

struct Engine::Choice {
  Choice(RequestId request, int32_t index, uint64_t arrival, std::span<const int32_t> prompt_ids,
         int32_t max_total_tokens)
      : sequence(request, index, arrival, prompt_ids, max_total_tokens) {}

  Sequence sequence;
  bool finished = false;
  bool first_step_taken = false;
  bool token_made = false;  // by this engine
  Clock::time_point first_step;
  Clock::time_point first_token;
  Clock::time_point last_token;
  // Of this step.
  int32_t new_token = -1;
  bool ended_by_token = false;
};

struct Engine::OpenRequest {
  RequestId id = 0;
  Request request;
  EventSink sink;
  Clock::time_point submitted;
  int32_t max_total_tokens = 0;
  std::vector<std::unique_ptr<Choice>> choices;  // empty until admitted
  int32_t open_choices = 0;
};

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(EngineConfig config, StepExecutor* executor,
                                                       EngineHooks hooks) {
  TANDEM_CHECK(executor != nullptr);
  TANDEM_RETURN_IF_ERROR(Check(config));
  // A cache that holds all sequences at full length never lacks a block.
  const int64_t running = std::min(config.max_num_seqs, config.max_batched_tokens);
  if (running * BlocksFor(config.max_model_len) <= config.num_blocks) config.watch.kv_high = 1;
  return std::unique_ptr<Engine>(new Engine(std::move(config), executor, std::move(hooks)));
}

Engine::Engine(EngineConfig config, StepExecutor* executor, EngineHooks hooks)
    : config_(std::move(config)),
      executor_(executor),
      hooks_(std::move(hooks)),
      scheduler_(config_),
      sampler_(config_.vocab_size, config_.eos_token_ids),
      watch_(config_.watch, scheduler_.max_running(), hooks_.on_watch) {
  const auto tokens = static_cast<size_t>(config_.max_batched_tokens);
  const auto rows = static_cast<size_t>(std::min(config_.max_num_seqs, config_.max_batched_tokens));
  for (auto* array : {&plan_.token_ids, &plan_.positions, &plan_.slot_mapping}) {
    array->reserve(tokens);
  }
  for (auto* array : {&plan_.cu_seqlens_q, &plan_.context_lens, &plan_.logits_indices}) {
    array->reserve(rows + 1);
  }
  plan_.block_tables.reserve(rows * BlocksFor(config_.max_model_len));
  plan_.sampling.reserve(rows);
  for (auto* array : {&chosen_, &fetched_}) array->reserve(rows);
  // Not cleared: a small batch touches only its own rows of what may be 32 MiB.
  logits_ = std::make_unique_for_overwrite<float[]>(rows * config_.vocab_size);
  plan_.block_moves.reserve(2 * kMovesPerStep);
  work_.watch = stats_.watch = watch_.stats();
  work_.kv_blocks_total = stats_.kv_blocks_total = config_.num_blocks;
}

Engine::~Engine() { Stop(); }

void Engine::Start() {
  std::lock_guard lock(mutex_);
  TANDEM_CHECK(!started_);
  if (stop_) return;
  started_ = true;
  thread_ = std::thread([this] { Run(); });
}

absl::Status Engine::Drain(Clock::time_point deadline) {
  TANDEM_CHECK(std::this_thread::get_id() != thread_.get_id());
  std::unique_lock lock(mutex_);
  draining_ = true;
  if (drained_.wait_until(lock, deadline, [this] { return open_requests_ == 0; })) {
    return absl::OkStatus();
  }
  end_open_ = true;
  wake_.notify_one();
  return absl::DeadlineExceededError(
      absl::StrCat(open_requests_, " requests were open at the end of the drain"));
}

void Engine::Stop() {
  bool inline_end;
  {
    std::lock_guard lock(mutex_);
    inline_end = !started_ && !stop_;
    draining_ = true;
    stop_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) {
    TANDEM_CHECK(std::this_thread::get_id() != thread_.get_id());
    thread_.join();
  }
  if (inline_end) {
    absl::Status unused;
    TakeCommands(&unused);
    Admit();
    ApplyCancels();
    EndAll(absl::UnavailableError("the engine was stopped"));
    PublishStats();
  }
}

absl::StatusOr<RequestId> Engine::Submit(Request request, EventSink sink) {
  const auto prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
  if (prompt_tokens == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  if (prompt_tokens >= config_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", prompt_tokens,
                                                   " tokens, expected fewer than the context of ",
                                                   config_.max_model_len));
  }
  for (const int32_t id : request.prompt_ids) {
    if (id < 0 || id >= config_.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " in the prompt, expected 0 to ", config_.vocab_size - 1));
    }
  }
  TANDEM_RETURN_IF_ERROR(ValidateSamplingParams(request.sampling, config_.vocab_size));
  if (!request.output_ids.empty()) {
    for (const int32_t id : request.output_ids) {
      if (id < 0 || id >= config_.vocab_size) {
        return absl::InvalidArgumentError(absl::StrCat(
            "token id ", id, " in the output so far, expected 0 to ", config_.vocab_size - 1));
      }
    }
    const int64_t known = prompt_tokens + static_cast<int64_t>(request.output_ids.size());
    if (request.sampling.n != 1 || request.sampling.logits_hash ||
        known >=
            std::min<int64_t>(prompt_tokens + request.sampling.max_tokens, config_.max_model_len)) {
      return absl::InvalidArgumentError(
          "the output so far: expected one choice, no hash of logits, and room for more tokens");
    }
  }
  if (request.sampling.n > config_.max_queue) {
    return absl::InvalidArgumentError(
        absl::StrCat("n: ", request.sampling.n, ", the queue has ", config_.max_queue, " places"));
  }
  auto open = std::make_unique<OpenRequest>();
  open->max_total_tokens = static_cast<int32_t>(
      std::min<int64_t>(prompt_tokens + request.sampling.max_tokens, config_.max_model_len));
  TANDEM_RETURN_IF_ERROR(scheduler_.Fits(open->max_total_tokens));
  open->open_choices = request.sampling.n;
  open->request = std::move(request);
  open->sink = std::move(sink);
  open->submitted = Clock::now();

  std::lock_guard lock(mutex_);
  if (!failure_.ok()) {
    return absl::UnavailableError(
        absl::StrCat("the engine has failed: ", std::string(failure_.message())));
  }
  if (draining_) return absl::UnavailableError("the engine is shutting down");
  if (open->open_choices > config_.max_queue - queued_) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", queued_, " of ",
                                                     config_.max_queue, " places are taken"));
  }
  const RequestId id = next_request_++;
  open->id = id;
  queued_ += open->open_choices;
  incoming_choices_ += open->open_choices;
  ++open_requests_;
  incoming_.push_back(std::move(open));
  wake_.notify_one();
  return id;
}

void Engine::Cancel(RequestId request) {
  std::lock_guard lock(mutex_);
  if (open_requests_ == 0) return;
  cancels_.push_back(request);
  wake_.notify_one();
}

EngineStats Engine::Stats() const {
  std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.waiting += incoming_choices_;
  return stats;
}

EngineLimits Engine::Limits() const {
  return {.vocab_size = config_.vocab_size,
          .max_model_len = config_.max_model_len,
          .max_queue = config_.max_queue};
}

absl::Status Engine::Failure() const {
  std::lock_guard lock(mutex_);
  return failure_;
}

void Engine::Run() {
  absl::Status failure;
  while (TakeCommands(&failure)) {
    Admit();
    ApplyCancels();
    if (end_all_) EndAll(absl::UnavailableError("the engine is shutting down"));
    ExpireDeadlines(Clock::now());
    if (!requests_.empty()) failure = Step();
    if (!failure.ok()) break;
    PublishStats();
  }
  if (!failure.ok()) {
    Fail(failure);
    return;
  }
  Admit();
  ApplyCancels();
  EndAll(absl::UnavailableError("the engine was stopped"));
  PublishStats();
}

bool Engine::TakeCommands(absl::Status* failure) {
  std::unique_lock lock(mutex_);
  const auto ready = [this] {
    return stop_ || !incoming_.empty() || !cancels_.empty() || !requests_.empty();
  };
  if (!ready()) EnterPart(hooks_.timer, parallel::StepPart::kIdle);
  const bool ticks = hooks_.on_idle != nullptr && hooks_.idle_interval.count() > 0;
  while (!ready()) {
    const bool looks = watch_.pending();
    if (!ticks && !looks) {
      wake_.wait(lock, ready);
      continue;
    }
    std::chrono::milliseconds interval = ticks ? hooks_.idle_interval : MemoryWatch::kInterval;
    if (looks) interval = std::min<std::chrono::milliseconds>(interval, MemoryWatch::kInterval);
    if (wake_.wait_for(lock, interval, ready)) break;
    lock.unlock();
    if (looks) {
      watch_.Judge(Clock::now());
      PublishStats();
    }
    if (ticks) {
      *failure = hooks_.on_idle();
      if (!failure->ok()) return false;
      Heard();
    }
    lock.lock();
  }
  EnterPart(hooks_.timer, parallel::StepPart::kScheduling);
  taken_.swap(incoming_);
  taken_cancels_.swap(cancels_);
  end_all_ = end_open_;
  return !stop_;
}

void Engine::Admit() {
  int64_t choices = 0;
  for (std::unique_ptr<OpenRequest>& open : taken_) {
    const Request& request = open->request;
    for (int32_t index = 0; index < request.sampling.n; ++index) {
      auto choice = std::make_unique<Choice>(open->id, index, next_arrival_++, request.prompt_ids,
                                             open->max_total_tokens);
      if (request.sampling.logits_hash) choice->sequence.logits_hash.emplace();
      for (const int32_t id : request.output_ids) choice->sequence.Append(id);
      scheduler_.Add(&choice->sequence);
      open->choices.push_back(std::move(choice));
      ++choices;
    }
    if (request.deadline) next_deadline_ = std::min(next_deadline_, *request.deadline);
    requests_.emplace(open->id, std::move(open));
  }
  if (choices == 0) return;
  taken_.clear();
  std::lock_guard lock(mutex_);
  incoming_choices_ -= choices;
  stats_.waiting += choices;
}

void Engine::ApplyCancels() {
  for (const RequestId id : taken_cancels_) {
    const auto at = requests_.find(id);
    if (at != requests_.end()) EndRequest(*at->second, FinishReason::kCancelled, absl::OkStatus());
  }
  taken_cancels_.clear();
}

void Engine::ExpireDeadlines(Clock::time_point now) {
  if (now < next_deadline_) return;
  next_deadline_ = Clock::time_point::max();
  for (auto at = requests_.begin(); at != requests_.end();) {
    OpenRequest& open = *at->second;
    ++at;  // EndRequest erases
    if (!open.request.deadline) continue;
    if (*open.request.deadline > now) {
      next_deadline_ = std::min(next_deadline_, *open.request.deadline);
      continue;
    }
    EndRequest(open, FinishReason::kError,
               absl::DeadlineExceededError("the request's deadline passed"));
  }
}

void Engine::Watch(Clock::time_point now) {
  watch_.Judge(now);
  const BlockManager& blocks = scheduler_.block_manager();
  const MemoryWatch::Decision decision = watch_.Look({.blocks = blocks.num_blocks(),
                                                      .held = blocks.num_used(),
                                                      .occupied = blocks.num_occupied(),
                                                      .span = blocks.span(),
                                                      .running = scheduler_.num_running()});
  scheduler_.LimitRunning(decision.max_running);
  if (decision.compact) watch_.CountMoves(scheduler_.Compact(kMovesPerStep));
}

absl::Status Engine::Step() {
  Watch(Clock::now());
  TANDEM_CHECK(scheduler_.Schedule(plan_));
  plan_.kind = StepPlan::Kind::kForward;
  plan_.sequence_number = static_cast<uint64_t>(work_.steps);
  const Clock::time_point begin = Clock::now();
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    Sequence& sequence = *entry.sequence;
    Choice& choice = *requests_.at(sequence.request())->choices[sequence.choice()];
    const int32_t prompt_end =
        std::min(sequence.num_computed_tokens + entry.num_tokens, sequence.num_prompt_tokens());
    work_.prompt_tokens += std::max(prompt_end - sequence.num_computed_tokens, 0);
    if (choice.first_step_taken) continue;
    choice.first_step_taken = true;
    choice.first_step = begin;
    work_.cached_prompt_tokens += sequence.cached_prompt_tokens;
    work_.looked_up_prompt_tokens += sequence.num_prompt_tokens();
    if (hooks_.metrics != nullptr) {
      hooks_.metrics->queue.Add(Seconds(begin - requests_.at(sequence.request())->submitted));
    }
    ++first_steps_;
  }
  PublishStats();
  RequestSurveys();
  const size_t rows = plan_.logits_indices.size();
  TANDEM_RETURN_IF_ERROR(executor_->Execute(plan_, {logits_.get(), rows * config_.vocab_size}));
  EnterPart(hooks_.timer, parallel::StepPart::kSampling);
  TANDEM_RETURN_IF_ERROR(ChooseSurveyed());
  ++work_.steps;
  Heard();
  TellStep();
  scheduler_.Complete();
  const Clock::time_point now = Clock::now();
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    if (entry.logits_row >= 0) Accept(entry, now);
  }
  return absl::OkStatus();
}

SampleInput Engine::InputOf(const ScheduledSequence& entry) const {
  const Sequence& sequence = *entry.sequence;
  const Request& request = requests_.at(sequence.request())->request;
  return {.logits = {},
          .params = request.sampling,
          .prompt_ids = sequence.prompt_ids(),
          .output_ids = sequence.output_ids(),
          .choice = request.first_choice + sequence.choice()};
}

void Engine::RequestSurveys() {
  RowSurveys* const surveys = executor_->surveys();
  plan_.sampling.clear();
  if (surveys == nullptr) return;
  plan_.sampling.resize(plan_.logits_indices.size());
  bool any = false;
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    if (entry.logits_row < 0) continue;
    kernels::SampleRequest& request = plan_.sampling[entry.logits_row];
    request = sampler_.MakeRequest(InputOf(entry), surveys->candidates());
    any |= request.kind != kernels::SampleKind::kWhole;
  }
  if (!any) plan_.sampling.clear();
}

absl::Status Engine::ChooseSurveyed() {
  chosen_.assign(plan_.logits_indices.size(), -1);
  if (plan_.sampling.empty()) return absl::OkStatus();
  RowSurveys& surveys = *executor_->surveys();
  fetched_.clear();
  for (const ScheduledSequence& entry : scheduler_.scheduled()) {
    const int32_t row = entry.logits_row;
    if (row < 0 || plan_.sampling[row].kind == kernels::SampleKind::kWhole) continue;
    chosen_[row] = sampler_.Choose(InputOf(entry), surveys.Of(row));
    if (chosen_[row] < 0) fetched_.push_back(row);
  }
  if (fetched_.empty()) return absl::OkStatus();
  return surveys.FetchRows(fetched_, {logits_.get(), chosen_.size() * config_.vocab_size});
}

void Engine::Heard() {
  if (hooks_.metrics != nullptr) {
    hooks_.metrics->heard.store(Clock::now(), std::memory_order_relaxed);
  }
}

void Engine::TellStep() {
  if (hooks_.metrics == nullptr) return;
  EngineMetrics& metrics = *hooks_.metrics;
  metrics.step_tokens.Add(static_cast<double>(plan_.token_ids.size()));
  if (hooks_.timer == nullptr) return;
  const parallel::StepTimer::Seconds seconds = hooks_.timer->Totals();
  for (size_t i = 0; i < seconds.size(); ++i) {
    metrics.part_seconds[i].store(seconds[i], std::memory_order_relaxed);
  }
}

void Engine::Accept(const ScheduledSequence& entry, Clock::time_point now) {
  Sequence& sequence = *entry.sequence;
  OpenRequest& open = *requests_.at(sequence.request());
  Choice& choice = *open.choices[sequence.choice()];
  const SamplingParams& params = open.request.sampling;
  if (const int32_t chosen = chosen_[entry.logits_row]; chosen >= 0) {
    sample_.token_id = chosen;
  } else {
    SampleInput input = InputOf(entry);
    input.logits = {logits_.get() + size_t(entry.logits_row) * config_.vocab_size,
                    static_cast<size_t>(config_.vocab_size)};
    if (sequence.logits_hash) sequence.logits_hash->Update(input.logits);
    const absl::Status status = sampler_.Run(input, &sample_);
    if (!status.ok()) {
      Finish(open, choice, FinishReason::kError, status, /*emit=*/true);
      return;
    }
  }
  sequence.Append(sample_.token_id);
  ++work_.generated_tokens;
  if (choice.token_made) {
    const double seconds = Seconds(now - choice.last_token);
    watch_.AddToken(seconds, now);
    if (hooks_.metrics != nullptr) hooks_.metrics->token.Add(seconds);
  } else {
    const double seconds = Seconds(now - open.submitted);
    watch_.AddFirstToken(seconds, now);
    if (hooks_.metrics != nullptr) hooks_.metrics->first_token.Add(seconds);
    choice.first_token = now;
  }
  choice.last_token = now;
  choice.token_made = true;
  choice.new_token = sample_.token_id;
  choice.ended_by_token = sampler_.IsStop(sample_.token_id, params);
  if (choice.ended_by_token) {
    Finish(open, choice, FinishReason::kStop, absl::OkStatus(), /*emit=*/true);
  } else if (sequence.num_tokens() == sequence.max_total_tokens()) {
    Finish(open, choice, FinishReason::kLength, absl::OkStatus(), /*emit=*/true);
  } else if (!Emit(open, choice, FinishReason::kNone, absl::OkStatus())) {
    Finish(open, choice, FinishReason::kStop, absl::OkStatus(), /*emit=*/false);
  } else {
    choice.new_token = -1;
  }
}

void Engine::EndRequest(OpenRequest& open, FinishReason reason, const absl::Status& status) {
  const size_t count = open.choices.size();
  for (size_t i = 0; i < count; ++i) {
    Choice& choice = *open.choices[i];
    if (choice.finished) continue;
    const bool last = open.open_choices == 1;
    Finish(open, choice, reason, status, /*emit=*/true);
    if (last) return;
  }
}

void Engine::EndAll(const absl::Status& status) {
  while (!requests_.empty()) {
    EndRequest(*requests_.begin()->second, FinishReason::kError, status);
  }
}

void Engine::Finish(OpenRequest& open, Choice& choice, FinishReason reason,
                    const absl::Status& status, bool emit) {
  TANDEM_CHECK(!choice.finished);
  choice.finished = true;
  scheduler_.Remove(&choice.sequence);
  if (!choice.first_step_taken) ++first_steps_;  // leaves the queue all the same
  if (emit) Emit(open, choice, reason, status);
  if (--open.open_choices > 0) return;
  ++work_.requests_finished;
  ++closed_;
  requests_.erase(open.id);
}

bool Engine::Emit(OpenRequest& open, Choice& choice, FinishReason reason,
                  const absl::Status& status) {
  const Sequence& sequence = choice.sequence;
  event_.request = open.id;
  event_.choice = sequence.choice();
  event_.token_ids.clear();
  event_.chosen_logprobs.clear();
  event_.top_logprobs.clear();
  event_.ended_by_token = choice.ended_by_token;
  event_.finish = reason;
  event_.status = status;
  if (choice.new_token >= 0) {
    event_.token_ids.push_back(choice.new_token);
    if (open.request.sampling.logprobs >= 0) {
      event_.chosen_logprobs.push_back({.token_id = sample_.token_id, .logprob = sample_.logprob});
      event_.top_logprobs.push_back(sample_.top_logprobs);
    }
  }
  // On every event: the sink may end the choice with any.
  event_.prompt_tokens = sequence.num_prompt_tokens();
  event_.cached_prompt_tokens = sequence.cached_prompt_tokens;
  event_.completion_tokens = sequence.num_output_tokens();
  event_.logits_hash = sequence.logits_hash ? sequence.logits_hash->Digest() : 0;
  const Clock::time_point now = Clock::now();
  const bool ran = choice.first_step_taken;
  const bool produced = choice.token_made;
  event_.timings.queue_seconds = Seconds((ran ? choice.first_step : now) - open.submitted);
  event_.timings.prefill_seconds =
      ran ? Seconds((produced ? choice.first_token : now) - choice.first_step) : 0.0;
  event_.timings.decode_seconds = produced ? Seconds(choice.last_token - choice.first_token) : 0.0;
  return open.sink(event_);
}

void Engine::PublishStats() {
  work_.running = scheduler_.num_running();
  work_.waiting = scheduler_.num_waiting();
  work_.kv_blocks_used = scheduler_.block_manager().num_used();
  work_.watch = watch_.stats();
  work_.preemptions = scheduler_.num_preemptions();
  std::lock_guard lock(mutex_);
  stats_ = work_;
  queued_ -= std::exchange(first_steps_, 0);
  open_requests_ -= std::exchange(closed_, 0);
  if (open_requests_ == 0) drained_.notify_all();
}

void Engine::Fail(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    failure_ = status;
    for (auto& open : incoming_) taken_.push_back(std::move(open));
    incoming_.clear();
  }
  // From here on Submit refuses: nothing can come in behind this.
  Admit();
  EndAll(absl::UnavailableError(std::string(status.message())));
  PublishStats();
  if (hooks_.on_failure) hooks_.on_failure(status);
}

}  // namespace tandem::engine
