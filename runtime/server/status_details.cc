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

// Clients take 8 KiB of headers, and what is not ASCII travels as three bytes for each. A longer
// answer would reach them as RESOURCE_EXHAUSTED without a word of it.
constexpr size_t kMaxMessageBytes = 1024;
// The details repeat the message, as google.rpc.Status asks, unless it is longer than this.
constexpr size_t kMaxRepeatedBytes = 256;

// The first `most` bytes at most, up to the end of a character.
std::string CutUtf8(absl::string_view text, size_t most) {
  constexpr absl::string_view kDots = "...";
  if (text.size() <= most) return std::string(text);
  size_t end = most - kDots.size();
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), kDots);
}

}  // namespace

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const bool retries = absl::IsResourceExhausted(status);
  const std::string message =
      CutUtf8(status.message(), retries ? kMaxRepeatedBytes : kMaxMessageBytes);
  if (message.size() > kMaxRepeatedBytes) {
    return {static_cast<grpc::StatusCode>(status.code()), message};
  }
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(message);
  if (const std::string field = engine::FieldOf(status); !field.empty()) {
    google::rpc::BadRequest details;
    auto* violation = details.add_field_violations();
    violation->set_field(field);
    std::string what = message;
    const std::string prefix = absl::StrCat(field, ": ");
    if (what.rfind(prefix, 0) == 0) what.erase(0, prefix.size());
    violation->set_description(what);
    rich.add_details()->PackFrom(details);
  }
  if (retries) {
    google::rpc::RetryInfo details;
    details.mutable_retry_delay()->set_seconds(kRetrySeconds);
    rich.add_details()->PackFrom(details);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), rich.message(),
                      rich.details_size() == 0 ? std::string() : rich.SerializeAsString());
}

}  // namespace tandem::server
