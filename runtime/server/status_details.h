// Errors as gRPC clients expect them: besides code and message the details of google.rpc.Status,
// in the trailer grpc-status-details-bin.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace tandem::server {

// INVALID_ARGUMENT about a field of the request, "FIELD: WHAT".
absl::Status FieldError(std::string_view field, std::string_view what);
// The field that a status is about; empty where it names none.
std::string FieldOf(const absl::Status& status);

// The codes are the same numbers. A FieldError gets a BadRequest, RESOURCE_EXHAUSTED a RetryInfo.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace tandem::server
