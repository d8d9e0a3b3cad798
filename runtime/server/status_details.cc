#include "runtime/server/status_details.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "runtime/engine/field_error.h"

namespace tandem::server {
namespace {

// A place in the queue is free again when a sequence ends: seconds, not milliseconds.
constexpr int kRetrySeconds = 1;

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(std::string(status.message()));
  if (const std::string field = engine::FieldOf(status); !field.empty()) {
    google::rpc::BadRequest details;
    auto* violation = details.add_field_violations();
    violation->set_field(field);
    std::string what(status.message());
    const std::string prefix = absl::StrCat(field, ": ");
    if (what.rfind(prefix, 0) == 0) what.erase(0, prefix.size());
    violation->set_description(what);
    rich.add_details()->PackFrom(details);
  }
  if (absl::IsResourceExhausted(status)) {
    google::rpc::RetryInfo details;
    details.mutable_retry_delay()->set_seconds(kRetrySeconds);
    rich.add_details()->PackFrom(details);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), rich.message(),
                      rich.details_size() == 0 ? std::string() : rich.SerializeAsString());
}

}  // namespace tandem::server
