#include "runtime/server/generate_call.h"

#include <cmath>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/server/byte_buffer.h"

namespace tandem::server {
namespace {

void SetDuration(double seconds, google::protobuf::Duration* duration) {
  const double whole = std::floor(seconds);
  duration->set_seconds(static_cast<int64_t>(whole));
  duration->set_nanos(static_cast<int32_t>((seconds - whole) * 1e9));
}

}  // namespace

std::shared_ptr<GenerateCall> GenerateCall::Create(std::function<void(GenerateCall*)> on_done) {
  std::shared_ptr<GenerateCall> call(new GenerateCall(std::move(on_done)));
  call->self_ = call;
  return call;
}

void GenerateCall::Start(engine::EngineClient* engine, engine::Request request,
                         const tokenizer::Tokenizer* tokenizer) {
  {
    std::lock_guard lock(mutex_);
    engine_ = engine;
    if (tokenizer != nullptr) decoder_.emplace(*tokenizer, /*skip_special_tokens=*/true);
    deadline_ = request.deadline;
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

bool GenerateCall::OnEvent(const engine::Event& event) {
  std::lock_guard lock(mutex_);
  const bool last = event.finish != engine::FinishReason::kNone;
  if (last) engine_done_ = true;
  if (end_.has_value()) return false;

  pending_.mutable_token_ids()->Add(event.token_ids.begin(), event.token_ids.end());
  if (decoder_.has_value()) {
    // The stop token is no part of the answer's text.
    std::span<const int32_t> ids = event.token_ids;
    if (event.ended_by_token && !ids.empty()) ids = ids.first(ids.size() - 1);
    for (const int32_t id : ids) {
      // A model may have more logits than its tokenizer has tokens; such an id has no text.
      absl::StatusOr<std::string> text = decoder_->Append(id);
      if (text.ok()) pending_.mutable_text()->append(*text);
    }
    if (last) pending_.mutable_text()->append(decoder_->Flush());
  }
  has_pending_ = has_pending_ || !event.token_ids.empty() || last;

  switch (event.finish) {
    case engine::FinishReason::kNone:
      break;
    case engine::FinishReason::kStop:
    case engine::FinishReason::kLength: {
      pending_.set_finish_reason(event.finish == engine::FinishReason::kStop
                                     ? v1::FINISH_REASON_STOP
                                     : v1::FINISH_REASON_LENGTH);
      v1::Usage* usage = pending_.mutable_usage();
      usage->set_prompt_tokens(event.prompt_tokens);
      usage->set_completion_tokens(event.completion_tokens);
      usage->set_cached_prompt_tokens(event.cached_prompt_tokens);
      v1::Timings* timings = pending_.mutable_timings();
      SetDuration(event.timings.queue_seconds, timings->mutable_queue());
      SetDuration(event.timings.prefill_seconds, timings->mutable_prefill());
      SetDuration(event.timings.decode_seconds, timings->mutable_decode());
      DecideLocked(grpc::Status::OK, /*drop_pending=*/false);
      break;
    }
    case engine::FinishReason::kCancelled:
      // Not by us, or end_ would be set: the engine is going down.
      DecideLocked(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the engine dropped the request"),
                   /*drop_pending=*/false);
      break;
    case engine::FinishReason::kError:
      TANDEM_CHECK(!event.status.ok());
      DecideLocked(ToGrpcStatus(event.status), /*drop_pending=*/false);
      break;
  }
  AdvanceLocked();
  return !last;
}

void GenerateCall::OnWriteDone(bool ok) {
  bool cancel = false;
  {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      // The client is gone; OnCancel says so too, before or after.
      has_pending_ = false;
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
    has_pending_ = false;
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
  if (drop_pending) has_pending_ = false;
}

void GenerateCall::AdvanceLocked() {
  // gRPC runs the reactions to these operations on its own threads, never inside the call that
  // starts them, so holding the mutex is safe.
  if (writing_ || finished_) return;
  if (has_pending_) {
    SerializeMessage(pending_, &buffer_);
    pending_.Clear();
    has_pending_ = false;
    if (end_.has_value()) {
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
