#include "runtime/engine/field_error.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace tandem::engine {
namespace {

constexpr char kFieldPayload[] = "tandem/field";

}  // namespace

absl::Status FieldError(std::string_view field, std::string_view what) {
  absl::Status status =
      absl::InvalidArgumentError(absl::StrCat(std::string(field), ": ", std::string(what)));
  status.SetPayload(kFieldPayload, absl::Cord(std::string(field)));
  return status;
}

std::string FieldOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFieldPayload);
  return payload.has_value() ? std::string(*payload) : "";
}

}  // namespace tandem::engine
