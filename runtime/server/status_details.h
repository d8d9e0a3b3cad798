// Errors as gRPC clients expect them: besides code and message the details of google.rpc.Status,
// in the trailer grpc-status-details-bin.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace tandem::server {

// The codes are the same numbers. An engine::FieldError gets a BadRequest, RESOURCE_EXHAUSTED a
// RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tandem::server
