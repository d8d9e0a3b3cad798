// From a call's bytes to what the engine takes, or to the answer: parsing, rendering, tokenizing.
// Everything whose time or memory grows with the request happens here, on a thread of the
// PreparationPool.
#pragma once

#include <functional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/support/byte_buffer.h"
#include "runtime/engine/engine_client.h"
#include "runtime/server/answer_text.h"
#include "runtime/server/preparation_pool.h"
#include "runtime/server/served_model.h"

namespace tandem::server {

// What a Generate call asks of the engine, and of the text in front of it.
struct PreparedRequest {
  engine::Request request;  // without a deadline
  StopTexts stops;
};

// INVALID_ARGUMENT for a text or ids that cannot fit the context, as their lengths alone show.
// Takes microseconds: gRPC's threads ask it, before a call is admitted.
absl::Status CheckPromptBytes(const grpc::ByteBuffer& bytes, const ServedModel& model);

// INVALID_ARGUMENT, FAILED_PRECONDITION and so on, as the protocol says; CANCELLED once `stopped`
// returns true, which is asked in between.
absl::StatusOr<PreparedRequest> PrepareGenerate(const grpc::ByteBuffer& bytes,
                                                const ServedModel& model,
                                                PreparationPool::Memory& memory,
                                                const std::function<bool()>& stopped);

// Writes the serialized answer to `out`.
absl::Status AnswerTokenize(const grpc::ByteBuffer& bytes, const ServedModel& model,
                            PreparationPool::Memory& memory, grpc::ByteBuffer* out);
absl::Status AnswerDetokenize(const grpc::ByteBuffer& bytes, const ServedModel& model,
                              PreparationPool::Memory& memory, grpc::ByteBuffer* out);

}  // namespace tandem::server
