#include "runtime/engine/engine.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/engine_checks.h"
#include "runtime/engine/open_request.h"

namespace tandem::engine {

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(EngineConfig config, StepExecutor* executor,
                                                       EngineHooks hooks) {
  TANDEM_CHECK(executor != nullptr);
  TANDEM_RETURN_IF_ERROR(CheckEngineConfig(config));
  // A cache that holds all sequences at full length never lacks a block.
  const int64_t running = std::min(config.max_num_seqs, config.max_batched_tokens);
  if (running * BlocksFor(config.max_model_len) <= config.num_blocks) config.load_guard.kv_high = 1;
  return std::unique_ptr<Engine>(new Engine(std::move(config), executor, std::move(hooks)));
}

Engine::Engine(EngineConfig config, StepExecutor* executor, EngineHooks hooks)
    : config_(std::move(config)),
      executor_(executor),
      hooks_(std::move(hooks)),
      scheduler_(config_),
      sampler_(config_.vocab_size, config_.eos_token_ids),
      load_guard_(config_.load_guard, scheduler_.max_running(), hooks_.on_load_guard),
      speculation_(config_.speculation) {
  const auto tokens = static_cast<size_t>(config_.max_batched_tokens);
  const auto sequences =
      static_cast<size_t>(std::min(config_.max_num_seqs, config_.max_batched_tokens));
  const auto rows = static_cast<size_t>(MaxRows(config_));
  for (auto* array : {&plan_.token_ids, &plan_.positions, &plan_.slot_mapping}) {
    array->reserve(tokens);
  }
  for (auto* array : {&plan_.cu_seqlens_q, &plan_.context_lens}) array->reserve(sequences + 1);
  plan_.logits_indices.reserve(rows);
  plan_.block_tables.reserve(sequences * BlocksFor(config_.max_model_len));
  plan_.sampling.reserve(rows);
  for (auto* array : {&chosen_, &fetched_}) array->reserve(rows);
  // Not cleared: a small batch touches only its own rows of what may be 32 MiB.
  logits_ = std::make_unique_for_overwrite<float[]>(rows * config_.vocab_size);
  plan_.block_moves.reserve(2 * kMaxBlockMovesPerStep);
  work_.load_guard = stats_.load_guard = load_guard_.stats();
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
  TANDEM_RETURN_IF_ERROR(CheckRequest(request, config_));
  auto open = std::make_unique<OpenRequest>();
  open->max_total_tokens = MaxTotalTokens(request, config_);
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
    const bool looks = load_guard_.latency_is_high();
    if (!ticks && !looks) {
      wake_.wait(lock, ready);
      continue;
    }
    std::chrono::milliseconds interval = ticks ? hooks_.idle_interval : LoadGuard::kInterval;
    if (looks) interval = std::min<std::chrono::milliseconds>(interval, LoadGuard::kInterval);
    if (wake_.wait_for(lock, interval, ready)) break;
    lock.unlock();
    if (looks) {
      load_guard_.JudgeLatency(Clock::now());
      PublishStats();
    }
    if (ticks) {
      *failure = hooks_.on_idle();
      if (!failure->ok()) return false;
      NoteRanksAnswered();
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
      auto choice = std::make_unique<OpenChoice>(open.get(), index, next_arrival_++);
      if (request.sampling.logits_hash) choice->logits_hash.emplace();
      for (const int32_t id : request.output_ids) choice->Append(id);
      choice->max_drafts = config_.speculation.max_drafts;
      if (request.sampling.speculate >= 0) {
        choice->max_drafts = std::min(choice->max_drafts, request.sampling.speculate);
      }
      scheduler_.Add(choice.get());
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

void Engine::EndRequest(OpenRequest& open, FinishReason reason, const absl::Status& status) {
  const size_t count = open.choices.size();
  for (size_t i = 0; i < count; ++i) {
    OpenChoice& choice = *open.choices[i];
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

void Engine::PublishStats() {
  work_.running = scheduler_.num_running();
  work_.waiting = scheduler_.num_waiting();
  work_.kv_blocks_used = scheduler_.block_manager().num_used();
  work_.load_guard = load_guard_.stats();
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
