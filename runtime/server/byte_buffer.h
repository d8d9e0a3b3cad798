// Requests are parsed here and not by gRPC: its callback API answers bytes that do not parse with
// UNIMPLEMENTED and no message.
#pragma once

#include "absl/status/status.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/byte_buffer.h"

namespace tandem::server {

// INVALID_ARGUMENT for more messages, parts, values and fields than CheckCounts allows (before any
// memory is taken for them), for bytes that are no such message ("malformed
// tandem.v1.GenerateRequest:
// ...") and for a string field that is not UTF-8, named with the offset of the first bad byte.
absl::Status ParseMessage(const grpc::ByteBuffer& bytes, google::protobuf::Message* message);

// Never fails for a message of ours within protobuf's 2 GiB.
void SerializeMessage(const google::protobuf::Message& message, grpc::ByteBuffer* bytes);

}  // namespace tandem::server
