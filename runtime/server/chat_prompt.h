// Renders a request's chat messages as the prompt's text. Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/chat/chat_template.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {

// INVALID_ARGUMENT naming the field, or with the template's own message if it rejects the
// conversation or reaches a limit. Any thread.
absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& prompt,
                                       const chat::ChatTemplate& chat_template);

}  // namespace tandem::server
