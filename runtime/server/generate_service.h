// tandem.v1.InferenceService: Generate, Tokenize, Detokenize, GetModel, GetServerStatus. It lives
// as long as the process; until SetModel every call gets UNAVAILABLE.
//
// Threads: the methods run on gRPC's threads. They admit a call, and a PreparationPool parses,
// renders and tokenizes. The rest of the public interface may be called from any thread. Destroy
// the service, the engine and the tokenizer only after the gRPC server has ended.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "absl/status/status.h"
#include "grpcpp/support/server_callback.h"
#include "runtime/server/bearer_tokens.h"
#include "runtime/server/generate_call.h"
#include "runtime/server/prepare_request.h"
#include "runtime/server/request_metrics.h"
#include "runtime/server/served_model.h"
#include "tandem/v1/inference.grpc.pb.h"

namespace tandem::server {

namespace internal {
// Raw methods, so that malformed bytes come to us (see byte_buffer.h).
using RawInferenceService = v1::InferenceService::WithRawCallbackMethod_Generate<
    v1::InferenceService::WithRawCallbackMethod_Tokenize<
        v1::InferenceService::WithRawCallbackMethod_Detokenize<
            v1::InferenceService::WithRawCallbackMethod_GetModel<
                v1::InferenceService::WithRawCallbackMethod_GetServerStatus<
                    v1::InferenceService::Service>>>>>;
}  // namespace internal

class GenerateService final : public internal::RawInferenceService {
 public:
  // `metrics` outlives the service. `tokens` may be null: then any client may call.
  // `preparation_bytes`: see PreparationPool.
  explicit GenerateService(RequestMetrics* metrics, std::unique_ptr<BearerTokens> tokens = nullptr,
                           uint64_t preparation_bytes = kDefaultPreparationBytes)
      : metrics_(metrics), tokens_(std::move(tokens)), pool_(preparation_bytes) {}
  ~GenerateService() override;

  // Calls are served from now on. Once only.
  void SetModel(ServedModel model);

  // New Generate calls get `reason`. Open streams go on, and so do all other calls, which cost the
  // engine nothing. The first reason stays.
  void StopAccepting(const absl::Status& reason);

  // Waits until no Generate stream is open. False if `deadline` passed first.
  bool WaitIdle(std::chrono::steady_clock::time_point deadline);
  // The same, but returns false also when EndAll has been called.
  bool WaitIdleOrEnded(std::chrono::steady_clock::time_point deadline);

  // Ends every open stream with this status.
  void EndAll(const absl::Status& status);

  // Nothing uses the engine or the tokenizer for a new request any more. After the gRPC server has
  // ended, since calls that wait for their tokens are not answered.
  void StopPreparing();

  size_t open_streams() const;

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* GetServerStatus(grpc::CallbackServerContext* context,
                                            const grpc::ByteBuffer* request,
                                            grpc::ByteBuffer* response) override;

 private:
  // The model, or UNAVAILABLE while it loads.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Model() const;
  // Adds the call to the open ones, or returns why not. One step, so that EndAll and WaitIdle see
  // every admitted call.
  absl::Status Admit(const std::shared_ptr<GenerateCall>& call);
  void Remove(GenerateCall* call);
  // RESOURCE_EXHAUSTED if those that wait in the engine and those that are being prepared fill the
  // engine's queue. The engine itself has the last word.
  absl::Status CheckQueue(const engine::EngineClient& engine) const;

  using PooledAnswer = absl::Status (*)(const grpc::ByteBuffer& bytes, const ServedModel& model,
                                        PreparationPool::Memory& memory, grpc::ByteBuffer* out);
  grpc::ServerUnaryReactor* AnswerInPool(const grpc::CallbackServerContext& context,
                                         const grpc::ByteBuffer* received,
                                         grpc::ByteBuffer* response, PooledAnswer answer);

  absl::Status Authorize(const grpc::CallbackServerContext& context) const;
  // The model for a call that is allowed; see Model.
  absl::StatusOr<std::shared_ptr<const ServedModel>> ModelFor(
      const grpc::CallbackServerContext& context) const;

  RequestMetrics* const metrics_;
  const std::unique_ptr<BearerTokens> tokens_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::shared_ptr<const ServedModel> model_;
  absl::Status stopped_;  // OK: new calls are welcome
  bool ended_ = false;    // by EndAll
  std::unordered_set<std::shared_ptr<GenerateCall>> calls_;
  std::atomic<int64_t> preparing_{0};  // Generate calls between admission and the engine
  PreparationPool pool_;               // last: its threads use the rest
};

}  // namespace tandem::server
