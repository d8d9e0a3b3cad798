// Errors about one field of a request. They carry the field's name beside the message, for clients
// that read it by program.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace tandem::engine {

// INVALID_ARGUMENT with the message "FIELD: WHAT".
absl::Status FieldError(std::string_view field, std::string_view what);
// The field that a status is about; empty where the status names none.
std::string FieldOf(const absl::Status& status);

}  // namespace tandem::engine
