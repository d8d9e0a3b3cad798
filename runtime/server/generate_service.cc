#include "runtime/server/generate_service.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "runtime/engine/field_error.h"
#include "runtime/server/byte_buffer.h"
#include "runtime/server/chat_prompt.h"
#include "runtime/server/sampling_proto.h"
#include "runtime/server/status_details.h"
#include "runtime/server/validation.h"

namespace tandem::server {
namespace {

constexpr char kNoTokenizer[] =
    "the model has no tokenizer.json: it takes and gives token ids only";
constexpr char kNoChatTemplate[] =
    "the model has no chat template that can be used: send text or token_ids";

// gRPC's deadline is wall-clock time, the engine's is not.
std::optional<engine::Clock::time_point> Deadline(const grpc::CallbackServerContext& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  // "None" comes as the end of time or close to it, depending on how it was converted.
  const auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24 * 365)) return std::nullopt;
  return engine::Clock::now() + std::chrono::duration_cast<engine::Clock::duration>(left);
}

// What a call asks of the engine, and of the text in front of it.
struct Job {
  engine::Request request;
  StopTexts stops;
};

absl::StatusOr<Job> MakeJob(const v1::GenerateRequest& message, const ServedModel& model) {
  const engine::EngineLimits limits = model.engine->Limits();
  Job job;
  engine::Request& request = job.request;
  switch (message.prompt_case()) {
    case v1::GenerateRequest::kText: {
      if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
      if (message.text().empty()) {
        return engine::FieldError("text", "empty, allowed: at least 1 character");
      }
      TANDEM_ASSIGN_OR_RETURN(request.prompt_ids,
                              model.tokenizer->Encode(message.text(), /*add_special=*/true));
      break;
    }
    case v1::GenerateRequest::kTokenIds:
      request.prompt_ids.assign(message.token_ids().ids().begin(), message.token_ids().ids().end());
      break;
    case v1::GenerateRequest::kMessages: {
      if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
      if (model.chat_template == nullptr) return absl::FailedPreconditionError(kNoChatTemplate);
      TANDEM_ASSIGN_OR_RETURN(const std::string text,
                              RenderChat(message.messages(), *model.chat_template));
      // The template has written the special tokens itself.
      TANDEM_ASSIGN_OR_RETURN(request.prompt_ids,
                              model.tokenizer->Encode(text, /*add_special=*/false));
      break;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return engine::FieldError("prompt", "not set, allowed: text, token_ids or messages");
  }
  TANDEM_RETURN_IF_ERROR(CheckPrompt(request.prompt_ids, limits));
  const engine::SamplingRequest sampling = SamplingFromProto(message.sampling());
  TANDEM_ASSIGN_OR_RETURN(
      request.sampling, MakeSampling(sampling, model.defaults, limits,
                                     static_cast<int64_t>(request.prompt_ids.size()), FreshSeed()));
  if (!sampling.stop.empty() && model.tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat("sampling.stop: ", kNoTokenizer));
  }
  job.stops = StopTextsOf(sampling);
  return job;
}

grpc::ServerUnaryReactor* FinishUnary(grpc::CallbackServerContext* context,
                                      const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

absl::Status TokenizeInto(const ServedModel& model, const grpc::ByteBuffer& bytes,
                          grpc::ByteBuffer* out) {
  v1::TokenizeRequest request;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          model.tokenizer->Encode(request.text(), request.add_special_tokens()));
  v1::TokenizeResponse response;
  response.mutable_ids()->Add(ids.begin(), ids.end());
  SerializeMessage(response, out);
  return absl::OkStatus();
}

absl::Status DetokenizeInto(const ServedModel& model, const grpc::ByteBuffer& bytes,
                            grpc::ByteBuffer* out) {
  v1::DetokenizeRequest request;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  if (model.tokenizer == nullptr) return absl::FailedPreconditionError(kNoTokenizer);
  const std::span<const int32_t> ids(request.ids().data(), request.ids().size());
  TANDEM_RETURN_IF_ERROR(CheckTokenIds(ids, model.engine->Limits().vocab_size, "ids"));
  v1::DetokenizeResponse response;
  TANDEM_ASSIGN_OR_RETURN(const std::string text,
                          model.tokenizer->Decode(ids, request.skip_special_tokens()));
  response.set_text(Utf8Lossy(text));
  SerializeMessage(response, out);
  return absl::OkStatus();
}

absl::Status DescribeInto(const ServedModel& model, const grpc::ByteBuffer& bytes,
                          grpc::ByteBuffer* out) {
  v1::GetModelRequest request;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  const engine::EngineLimits limits = model.engine->Limits();
  v1::GetModelResponse response;
  response.set_name(model.info.name);
  response.set_architecture(model.info.architecture);
  response.set_vocab_size(limits.vocab_size);
  response.set_max_model_len(limits.max_model_len);
  response.mutable_eos_token_ids()->Add(model.info.eos_token_ids.begin(),
                                        model.info.eos_token_ids.end());
  response.set_has_tokenizer(model.tokenizer != nullptr);
  response.set_tp_degree(model.info.tp_degree);
  response.set_weight_dtype(model.info.weight_dtype);
  response.set_version(model.info.version);
  SerializeMessage(response, out);
  return absl::OkStatus();
}

v1::WatchStatus::Latency LatencyToProto(engine::LatencyLevel level) {
  switch (level) {
    case engine::LatencyLevel::kNormal:
      return v1::WatchStatus::LATENCY_NORMAL;
    case engine::LatencyLevel::kWarning:
      return v1::WatchStatus::LATENCY_WARNING;
    case engine::LatencyLevel::kAlarm:
      return v1::WatchStatus::LATENCY_ALARM;
  }
  TANDEM_CHECK(false);
}

void LoadGuardInto(const engine::LoadGuardStats& stats, v1::WatchStatus* out) {
  const auto seconds = [](double value, google::protobuf::Duration* duration) {
    const auto nanos = static_cast<int64_t>(value * 1e9);
    duration->set_seconds(nanos / 1'000'000'000);
    duration->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
  };
  out->set_max_running(stats.max_running);
  out->set_batch_reductions(stats.batch_reductions);
  out->set_batch_growths(stats.batch_growths);
  out->set_fragmentation(stats.fragmentation);
  out->set_compactions(stats.compactions);
  out->set_blocks_moved(stats.blocks_moved);
  if (stats.ttft_p95 > 0) seconds(stats.ttft_p95, out->mutable_ttft_p95());
  if (stats.itl_p95 > 0) seconds(stats.itl_p95, out->mutable_itl_p95());
  out->set_ttft(LatencyToProto(stats.ttft_level));
  out->set_itl(LatencyToProto(stats.itl_level));
  out->set_latency_warnings(stats.latency_warnings);
  out->set_latency_alarms(stats.latency_alarms);
}

absl::Status StatusInto(const ServedModel& model, const grpc::ByteBuffer& bytes,
                        grpc::ByteBuffer* out) {
  v1::GetServerStatusRequest request;
  TANDEM_RETURN_IF_ERROR(ParseMessage(bytes, &request));
  const engine::EngineStats stats = model.engine->Stats();
  v1::GetServerStatusResponse response;
  response.set_version(model.info.version);
  const auto uptime = std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::steady_clock::now() - model.ready_since);
  response.mutable_uptime()->set_seconds(uptime.count() / 1'000'000'000);
  response.mutable_uptime()->set_nanos(static_cast<int32_t>(uptime.count() % 1'000'000'000));
  response.set_tp_degree(model.info.tp_degree);
  const std::vector<RankInfo> ranks = model.ranks ? model.ranks() : std::vector<RankInfo>();
  for (size_t i = 0; i < ranks.size(); ++i) {
    v1::RankStatus* rank = response.add_ranks();
    rank->set_rank(static_cast<int32_t>(i));
    rank->set_host(ranks[i].host);
    rank->set_pid(ranks[i].pid);
    v1::MemoryBytes* planned = rank->mutable_planned();
    planned->set_weights(ranks[i].planned.weights);
    planned->set_kv(ranks[i].planned.kv);
    planned->set_workspace(ranks[i].planned.workspace);
    planned->set_communication(ranks[i].planned.communication);
    planned->set_process(ranks[i].planned.process);
    planned->set_total(ranks[i].planned.total());
    planned->set_scratch(ranks[i].planned.scratch);
    planned->set_graphs(ranks[i].planned.graphs);
    planned->set_collectives(ranks[i].planned.collectives);
    planned->set_pinned(ranks[i].planned.pinned);
    planned->set_gpu(ranks[i].planned.gpu());
    rank->set_measured_bytes(ranks[i].measured_bytes);
    rank->set_gpu_bytes(ranks[i].gpu_bytes);
  }
  response.set_running(stats.running);
  response.set_waiting(stats.waiting);
  response.set_max_queue(model.engine->Limits().max_queue);
  response.set_kv_blocks_used(stats.kv_blocks_used);
  response.set_kv_blocks_total(stats.kv_blocks_total);
  response.set_preemptions(stats.preemptions);
  response.set_prompt_tokens(stats.prompt_tokens);
  response.set_cached_prompt_tokens(stats.cached_prompt_tokens);
  response.set_generated_tokens(stats.generated_tokens);
  response.set_requests_finished(stats.requests_finished);
  response.set_steps(stats.steps);
  LoadGuardInto(stats.load_guard, response.mutable_watch());
  SerializeMessage(response, out);
  return absl::OkStatus();
}

}  // namespace

GenerateService::~GenerateService() { TANDEM_CHECK(calls_.empty()); }

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
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* bytes) {
  std::shared_ptr<GenerateCall> call =
      GenerateCall::Create(metrics_, [this](GenerateCall* done) { Remove(done); });
  const auto submit = [&]() -> absl::Status {
    TANDEM_RETURN_IF_ERROR(Authorize(*context));
    TANDEM_RETURN_IF_ERROR(Admit(call));
    TANDEM_ASSIGN_OR_RETURN(const std::shared_ptr<const ServedModel> model, Model());
    v1::GenerateRequest message;
    TANDEM_RETURN_IF_ERROR(ParseMessage(*bytes, &message));
    TANDEM_ASSIGN_OR_RETURN(Job job, MakeJob(message, *model));
    job.request.deadline = Deadline(*context);
    call->Start(model->engine, std::move(job.request), std::move(job.stops), model->tokenizer);
    return absl::OkStatus();
  };
  if (absl::Status status = submit(); !status.ok()) call->End(status);
  return call.get();
}

grpc::ServerUnaryReactor* GenerateService::Tokenize(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* response) {
  const auto model = ModelFor(*context);
  return FinishUnary(context,
                     model.ok() ? TokenizeInto(**model, *request, response) : model.status());
}

grpc::ServerUnaryReactor* GenerateService::Detokenize(grpc::CallbackServerContext* context,
                                                      const grpc::ByteBuffer* request,
                                                      grpc::ByteBuffer* response) {
  const auto model = ModelFor(*context);
  return FinishUnary(context,
                     model.ok() ? DetokenizeInto(**model, *request, response) : model.status());
}

grpc::ServerUnaryReactor* GenerateService::GetModel(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* response) {
  const auto model = ModelFor(*context);
  return FinishUnary(context,
                     model.ok() ? DescribeInto(**model, *request, response) : model.status());
}

grpc::ServerUnaryReactor* GenerateService::GetServerStatus(grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  const auto model = ModelFor(*context);
  return FinishUnary(context,
                     model.ok() ? StatusInto(**model, *request, response) : model.status());
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

void GenerateService::Remove(GenerateCall* call) {
  // The call is alive: it holds itself until this returns.
  const std::shared_ptr<GenerateCall> held = call->shared_from_this();
  std::lock_guard lock(mutex_);
  calls_.erase(held);
  if (calls_.empty()) idle_.notify_all();
}

}  // namespace tandem::server
