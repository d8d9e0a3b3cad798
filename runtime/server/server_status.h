// The answers of GetModel and GetServerStatus.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"
#include "runtime/server/served_model.h"

namespace tandem::server {

// Each writes the serialized answer to `out`. INVALID_ARGUMENT for bytes that are no such request,
// and for many of them: these requests are empty.
absl::Status AnswerGetModel(const ServedModel& model, const grpc::ByteBuffer& bytes,
                            grpc::ByteBuffer* out);
absl::Status AnswerGetServerStatus(const ServedModel& model, const grpc::ByteBuffer& bytes,
                                   grpc::ByteBuffer* out);

}  // namespace tandem::server
