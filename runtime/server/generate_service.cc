#include "runtime/server/generate_service.h"

#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/server/server_status.h"
#include "runtime/server/status_details.h"
#include "runtime/server/unary_call.h"

namespace tandem::server {
namespace {

// Of a message that gRPC has received: it would keep the bytes until the call is done, which for a
// stream is long.
grpc::ByteBuffer TakeBytes(const grpc::ByteBuffer* received) {
  grpc::ByteBuffer taken;
  // The object is gRPC's own and not const; handlers see it as const.
  taken.Swap(const_cast<grpc::ByteBuffer*>(received));
  return taken;
}

// gRPC's deadline is wall-clock time, the engine's is not.
std::optional<engine::Clock::time_point> Deadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  // "None" comes as the end of time or close to it, depending on how it was converted.
  const auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return std::nullopt;
  return engine::Clock::now() + std::chrono::duration_cast<engine::Clock::duration>(left);
}

grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                      const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

}  // namespace

GenerateService::~GenerateService() {
  StopPreparing();
  TANDEM_CHECK(calls_.empty());
}

void GenerateService::StopPreparing() { pool_.Stop(); }

void GenerateService::SetModel(ServedModel model) {
  TANDEM_CHECK(model.engine != nullptr);
  std::lock_guard lock(mutex_);
  TANDEM_CHECK(model_ == nullptr);
  model_ = std::make_shared<const ServedModel>(std::move(model));
}

void GenerateService::StopAccepting(const absl::Status& reason) {
  TANDEM_CHECK(!reason.ok());
  std::lock_guard lock(mutex_);
  if (stopped_.ok()) stopped_ = reason;
}

bool GenerateService::WaitIdle(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  return idle_.wait_until(lock, deadline, [this] { return calls_.empty(); });
}

bool GenerateService::WaitIdleOrEnded(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  idle_.wait_until(lock, deadline, [this] { return calls_.empty() || ended_; });
  return calls_.empty();
}

void GenerateService::EndAll(const absl::Status& status) {
  std::vector<std::shared_ptr<GenerateCall>> calls;
  {
    std::lock_guard lock(mutex_);
    calls.assign(calls_.begin(), calls_.end());
  }
  for (const auto& call : calls) call->End(status);
  // Last: a thread that waits for `ended_` may end the calls with another status.
  std::lock_guard lock(mutex_);
  ended_ = true;
  idle_.notify_all();
}

size_t GenerateService::open_streams() const {
  std::lock_guard lock(mutex_);
  return calls_.size();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* GenerateService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* received) {
  std::shared_ptr<GenerateCall> call =
      GenerateCall::Create(metrics_, [this](GenerateCall* done) { Remove(done); });
  const PreparationPool::Ticket ticket = pool_.NewTicket();
  call->Prepare(Deadline(*context), [this, ticket] { pool_.Drop(ticket); });
  pool_.NoteReceived(received->Length());
  const auto admit = [&]() -> absl::Status {
    TANDEM_RETURN_IF_ERROR(Authorize(*context));
    TANDEM_RETURN_IF_ERROR(Admit(call));
    TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, Model());
    TANDEM_RETURN_IF_ERROR(CheckPromptBytes(*received, *model));
    TANDEM_RETURN_IF_ERROR(CheckQueue(*model->engine));
    const grpc::ByteBuffer bytes = TakeBytes(received);
    // Given up with the work, done or dropped.
    ++preparing_;
    std::shared_ptr<void> place(nullptr, [this](void*) { --preparing_; });
    return pool_.Add(ticket, bytes.Length(),
                     [call, model, bytes, place](PreparationPool::Memory& memory) mutable {
                       if (call->ended()) return;
                       absl::StatusOr<PreparedRequest> prepared = PrepareGenerate(
                           bytes, *model, memory, [&call] { return call->ended(); });
                       place.reset();  // the engine counts it from now on
                       if (!prepared.ok()) return call->End(prepared.status());
                       call->Start(model->engine, std::move(prepared->request),
                                   std::move(prepared->stops), model->tokenizer);
                     });
  };
  if (absl::Status status = admit(); !status.ok()) call->End(status);
  return call.get();
}

grpc::ServerUnaryReactor* GenerateService::AnswerInPool(const grpc::CallbackServerContext& context,
                                                        const grpc::ByteBuffer* received,
                                                        grpc::ByteBuffer* response,
                                                        PooledAnswer answer) {
  const PreparationPool::Ticket ticket = pool_.NewTicket();
  const std::shared_ptr<UnaryCall> call =
      UnaryCall::Create([this, ticket] { return pool_.Drop(ticket); });
  pool_.NoteReceived(received->Length());
  const auto admit = [&]() -> absl::Status {
    TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, ModelFor(context));
    const grpc::ByteBuffer bytes = TakeBytes(received);
    return pool_.Add(ticket, bytes.Length(),
                     [call, model, bytes, response, answer](PreparationPool::Memory& memory) {
                       call->End(answer(bytes, *model, memory, response));
                     });
  };
  if (absl::Status status = admit(); !status.ok()) call->End(status);
  return call.get();
}

grpc::ServerUnaryReactor* GenerateService::Tokenize(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* response) {
  return AnswerInPool(*context, request, response, &AnswerTokenize);
}

grpc::ServerUnaryReactor* GenerateService::Detokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  return AnswerInPool(*context, request, response, &AnswerDetokenize);
}

grpc::ServerUnaryReactor* GenerateService::GetModel(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* response) {
  const auto model = ModelFor(*context);
  return FinishUnary(context,
                     model.ok() ? AnswerGetModel(**model, *request, response) : model.status());
}

grpc::ServerUnaryReactor* GenerateService::GetServerStatus(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  const auto model = ModelFor(*context);
  return FinishUnary(
      context, model.ok() ? AnswerGetServerStatus(**model, *request, response) : model.status());
}

absl::StatusOr<std::shared_ptr<const ServedModel>> GenerateService::Model() const {
  std::lock_guard lock(mutex_);
  if (model_ != nullptr) return model_;
  return stopped_.ok() ? absl::UnavailableError("the model is still loading") : stopped_;
}

absl::Status GenerateService::Authorize(const grpc::CallbackServerContext& context) const {
  return tokens_ == nullptr ? absl::OkStatus() : tokens_->Check(context);
}

absl::StatusOr<std::shared_ptr<const ServedModel>> GenerateService::ModelFor(
    const grpc::CallbackServerContext& context) const {
  TANDEM_RETURN_IF_ERROR(Authorize(context));
  return Model();
}

absl::Status GenerateService::Admit(const std::shared_ptr<GenerateCall>& call) {
  std::lock_guard lock(mutex_);
  if (!stopped_.ok()) return stopped_;
  calls_.insert(call);
  return absl::OkStatus();
}

absl::Status GenerateService::CheckQueue(const engine::EngineClient& engine) const {
  const int64_t waiting = engine.Stats().waiting + preparing_.load();
  const int64_t places = engine.Limits().max_queue;
  if (waiting < places) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("the queue is full: ", waiting, " of ", places, " places are taken"));
}

void GenerateService::Remove(GenerateCall* call) {
  // The call is alive: it holds itself until this returns.
  const std::shared_ptr<GenerateCall> held = call->shared_from_this();
  std::lock_guard lock(mutex_);
  calls_.erase(held);
  if (calls_.empty()) idle_.notify_all();
}

}  // namespace tandem::server
