#include "runtime/server/generate_call.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/server/byte_buffer.h"
#include "runtime/server/status_details.h"

namespace tandem::server {
namespace {

// Of a message, about. Clients refuse messages of more than 4 MiB if they do not say otherwise.
constexpr size_t kMessageBytes = size_t{1} << 20;

void SetDuration(double seconds, google::protobuf::Duration* duration) {
  const double whole = std::floor(seconds);
  duration->set_seconds(static_cast<int64_t>(whole));
  duration->set_nanos(static_cast<int32_t>((seconds - whole) * 1e9));
}

}  // namespace

std::shared_ptr<GenerateCall> GenerateCall::Create(RequestMetrics* metrics,
                                                   std::function<void(GenerateCall*)> on_done) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(metrics, std::move(on_done)));
  call->self_ = call;
  return call;
}

void GenerateCall::Prepare(std::optional<engine::Clock::time_point> deadline,
                           std::function<void()> abandon) {
  std::lock_guard lock(mutex_);
  deadline_ = deadline;
  abandon_ = std::move(abandon);
}

bool GenerateCall::ended() const {
  std::lock_guard lock(mutex_);
  return end_.has_value();
}

void GenerateCall::Start(engine::EngineClient* engine, engine::Request request, StopTexts stops,
                         const tokenizer::Tokenizer* tokenizer) {
  {
    std::lock_guard lock(mutex_);
    if (end_.has_value()) return;
    engine_ = engine;
    tokenizer_ = tokenizer;
    request.deadline = deadline_;
    choices_.resize(request.sampling.n);
    open_choices_ = choices_.size();
    for (size_t i = 0; i < choices_.size(); ++i) {
      choices_[i].answer.emplace(tokenizer, stops);
      choices_[i].pending.set_choice(static_cast<int32_t>(i));
    }
  }
  absl::StatusOr<engine::RequestId> id = engine->Submit(
      std::move(request),
      [call = shared_from_this()](const engine::Event& event) { return call->OnEvent(event); });
  bool ended_meanwhile = false;
  {
    std::lock_guard lock(mutex_);
    if (!id.ok()) {
      engine_done_ = true;
      DecideLocked(ToGrpcStatus(id.status()), /*drop_pending=*/true);
      AdvanceLocked();
      return;
    }
    request_id_ = *id;
    ended_meanwhile = end_.has_value() && !engine_done_;
  }
  if (ended_meanwhile) CancelInEngine();
}

void GenerateCall::End(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (end_.has_value()) return;
    DecideLocked(ToGrpcStatus(status), /*drop_pending=*/false);
    AdvanceLocked();
  }
  CancelInEngine();
}

v1::GenerateResponse GenerateCall::Choice::TakePending() {
  v1::GenerateResponse taken;
  taken.Swap(&pending);
  pending.set_choice(taken.choice());
  pending_bytes = 0;
  has_pending = false;
  return taken;
}

bool GenerateCall::OnEvent(const engine::Event& event) {
  std::lock_guard lock(mutex_);
  Choice& choice = choices_[event.choice];
  const bool last = event.finish != engine::FinishReason::kNone;
  if (end_.has_value()) {
    if (last) ChoiceDoneLocked(choice);
    return false;
  }
  const bool goes_on = AddEventLocked(event, choice);
  switch (choice.answer->finish()) {
    case engine::FinishReason::kNone:
      break;
    case engine::FinishReason::kStop:
    case engine::FinishReason::kLength:
      FinishChoiceLocked(event, choice);
      break;
    case engine::FinishReason::kCancelled:
      // Not by us, or end_ would be set: the engine is going down.
      ChoiceDoneLocked(choice);
      DecideLocked(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the engine dropped the request"),
                   /*drop_pending=*/false);
      break;
    case engine::FinishReason::kError:
      TANDEM_CHECK(!event.status.ok());
      ChoiceDoneLocked(choice);
      DecideLocked(ToGrpcStatus(event.status), /*drop_pending=*/false);
      break;
  }
  AdvanceLocked();
  return goes_on;
}

bool GenerateCall::AddEventLocked(const engine::Event& event, Choice& choice) {
  if (choice.pending_bytes >= kMessageBytes) choice.full.push_back(choice.TakePending());
  v1::GenerateResponse& message = choice.pending;
  const size_t text_before = message.text().size();
  message.mutable_token_ids()->Add(event.token_ids.begin(), event.token_ids.end());
  const bool goes_on = choice.answer->Add(event, message.mutable_text());
  const auto fill = [this](const engine::TokenLogprob& from, v1::TokenLogprob* to) {
    to->set_token_id(from.token_id);
    to->set_logprob(from.logprob);
    if (tokenizer_ == nullptr) return;
    const auto bytes = tokenizer_->TokenBytes(from.token_id);
    if (bytes.ok()) to->set_token(bytes->data(), bytes->size());
  };
  for (size_t i = 0; i < event.chosen_logprobs.size(); ++i) {
    v1::TokenLogprobs* logprobs = message.add_logprobs();
    fill(event.chosen_logprobs[i], logprobs->mutable_chosen());
    for (const engine::TokenLogprob& other : event.top_logprobs[i])
      fill(other, logprobs->add_top());
    choice.pending_bytes += logprobs->ByteSizeLong() + 4;
  }
  choice.pending_bytes += message.text().size() - text_before + 5 * event.token_ids.size();
  choice.has_pending = choice.has_pending || !event.token_ids.empty();
  return goes_on;
}

void GenerateCall::FinishChoiceLocked(const engine::Event& event, Choice& choice) {
  v1::GenerateResponse& message = choice.pending;
  choice.has_pending = true;
  const ChoiceAnswer& answer = *choice.answer;
  if (answer.finish() == engine::FinishReason::kLength) {
    message.set_finish_reason(v1::FINISH_REASON_LENGTH);
    cut_ = true;
  } else {
    message.set_finish_reason(v1::FINISH_REASON_STOP);
    if (answer.stop_text().has_value()) message.set_stop_text(*answer.stop_text());
    if (answer.stop_token_id().has_value()) message.set_stop_token_id(*answer.stop_token_id());
  }
  ChoiceDoneLocked(choice);
  usage_.set_prompt_tokens(event.prompt_tokens);
  usage_.set_completion_tokens(usage_.completion_tokens() + event.completion_tokens);
  usage_.set_draft_tokens(usage_.draft_tokens() + event.draft_tokens);
  usage_.set_accepted_draft_tokens(usage_.accepted_draft_tokens() + event.accepted_draft_tokens);
  // The other choices find the prompt in the cache because the first has put it there.
  if (event.choice == 0) {
    usage_.set_cached_prompt_tokens(event.cached_prompt_tokens);
    timings_.queue_seconds = event.timings.queue_seconds;
    timings_.prefill_seconds = event.timings.prefill_seconds;
  }
  timings_.decode_seconds = std::max(timings_.decode_seconds, event.timings.decode_seconds);
  if (open_choices_ > 0) return;
  *message.mutable_usage() = usage_;
  v1::Timings* timings = message.mutable_timings();
  SetDuration(timings_.queue_seconds, timings->mutable_queue());
  SetDuration(timings_.prefill_seconds, timings->mutable_prefill());
  SetDuration(timings_.decode_seconds, timings->mutable_decode());
  last_choice_ = static_cast<size_t>(event.choice);
  DecideLocked(grpc::Status::OK, /*drop_pending=*/false);
}

void GenerateCall::ChoiceDoneLocked(Choice& choice) {
  if (choice.done) return;
  choice.done = true;
  if (--open_choices_ == 0) engine_done_ = true;
}

void GenerateCall::OnWriteDone(bool ok) {
  bool cancel = false;
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      // The client is gone; OnCancel says so too, before or after.
      DropPendingLocked();
      cancel = !end_.has_value();
      DecideLocked(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone"),
                   /*drop_pending=*/true);
    }
    AdvanceLocked();
  }
  if (cancel) CancelInEngine();
}

void GenerateCall::OnCancel() {
  {
    std::lock_guard lock(mutex_);
    DropPendingLocked();
    const bool late = deadline_.has_value() && engine::Clock::now() >= *deadline_;
    DecideLocked(late ? grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "the deadline passed")
                      : grpc::Status(grpc::StatusCode::CANCELLED, "cancelled by the client"),
                 /*drop_pending=*/true);
    AdvanceLocked();
  }
  CancelInEngine();
}

void GenerateCall::OnDone() {
  on_done_(this);
  self_.reset();  // may be the last reference: nothing after it
}

void GenerateCall::DecideLocked(grpc::Status status, bool drop_pending) {
  if (end_.has_value()) return;
  end_ = std::move(status);
  CountLocked();
  if (drop_pending) DropPendingLocked();
}

void GenerateCall::CountLocked() {
  if (!end_->ok()) {
    metrics_->failures.at(end_->error_code()).fetch_add(1, std::memory_order_relaxed);
    return;
  }
  (cut_ ? metrics_->cut : metrics_->stopped).fetch_add(1, std::memory_order_relaxed);
  const std::chrono::duration<double> taken = engine::Clock::now() - arrived_;
  metrics_->seconds.Add(taken.count());
  metrics_->prompt_tokens.Add(usage_.prompt_tokens());
  metrics_->generated_tokens.Add(usage_.completion_tokens());
}

void GenerateCall::DropPendingLocked() {
  for (Choice& choice : choices_) {
    choice.full.clear();
    choice.has_pending = false;
  }
}

GenerateCall::Choice* GenerateCall::NextLocked() {
  for (size_t i = 0; i < choices_.size(); ++i) {
    const size_t index = (next_choice_ + i) % choices_.size();
    if (!choices_[index].waits() || (end_.has_value() && index == last_choice_)) continue;
    next_choice_ = index + 1;
    return &choices_[index];
  }
  if (last_choice_ < choices_.size() && choices_[last_choice_].waits()) {
    return &choices_[last_choice_];
  }
  return nullptr;
}

void GenerateCall::AdvanceLocked() {
  // gRPC runs the reactions to these operations on its own threads, never inside the call that
  // starts them, so holding the mutex is safe.
  if (writing_ || finished_) return;
  if (Choice* choice = NextLocked(); choice != nullptr) {
    if (choice->full.empty()) choice->full.push_back(choice->TakePending());
    SerializeMessage(choice->full.front(), &buffer_);
    choice->full.pop_front();
    const bool more = std::any_of(choices_.begin(), choices_.end(),
                                  [](const Choice& other) { return other.waits(); });
    if (end_.has_value() && !more) {
      finished_ = true;
      StartWriteAndFinish(&buffer_, grpc::WriteOptions(), *end_);
    } else {
      writing_ = true;
      StartWrite(&buffer_);
    }
  } else if (end_.has_value()) {
    finished_ = true;
    Finish(*end_);
  }
}

void GenerateCall::CancelInEngine() {
  engine::EngineClient* engine = nullptr;
  engine::RequestId id = 0;
  std::function<void()> abandon;
  {
    std::lock_guard lock(mutex_);
    abandon.swap(abandon_);
  }
  if (abandon) abandon();
  {
    std::lock_guard lock(mutex_);
    // Without an id Submit has not returned, and Start will come here again.
    if (engine_done_ || !request_id_.has_value()) return;
    engine = engine_;
    id = *request_id_;
  }
  engine->Cancel(id);
}

}  // namespace tandem::server
