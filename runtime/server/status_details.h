// Errors as gRPC clients expect them: besides code and message the details of google.rpc.Status,
// in the trailer grpc-status-details-bin.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace tandem::server {

// The codes are the same numbers. An engine::FieldError gets a BadRequest, RESOURCE_EXHAUSTED a
// RetryInfo. A message is cut to 1 KiB at the end of a character. One of more than 256 bytes is
// sent once, without details, because clients refuse long headers; with RESOURCE_EXHAUSTED it is
// cut to 256 bytes.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tandem::server
