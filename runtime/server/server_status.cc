#include "runtime/server/server_status.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/field_error.h"
#include "runtime/server/byte_buffer.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {
namespace {

// These requests have no fields yet. gRPC's threads parse them.
constexpr size_t kMaxRequestBytes = 16 << 10;

absl::Status ParseSmall(const grpc::ByteBuffer& bytes, google::protobuf::Message* message) {
  if (bytes.Valid() && bytes.Length() > kMaxRequestBytes) {
    return engine::FieldError(
        "request", absl::StrCat(bytes.Length(), " bytes, allowed: at most ", kMaxRequestBytes));
  }
  return ParseMessage(bytes, message);
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

}  // namespace

absl::Status AnswerGetModel(const ServedModel& model, const grpc::ByteBuffer& bytes,
                            grpc::ByteBuffer* out) {
  v1::GetModelRequest request;
  TANDEM_RETURN_IF_ERROR(ParseSmall(bytes, &request));
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

absl::Status AnswerGetServerStatus(const ServedModel& model, const grpc::ByteBuffer& bytes,
                                   grpc::ByteBuffer* out) {
  v1::GetServerStatusRequest request;
  TANDEM_RETURN_IF_ERROR(ParseSmall(bytes, &request));
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
    planned->set_embedding(ranks[i].planned.embedding);
    planned->set_kv(ranks[i].planned.kv);
    planned->set_workspace(ranks[i].planned.workspace);
    planned->set_communication(ranks[i].planned.communication);
    planned->set_process(ranks[i].planned.process);
    planned->set_preparation(ranks[i].planned.preparation);
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

}  // namespace tandem::server
