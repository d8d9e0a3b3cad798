// From a request's chat messages to the text that the model is asked with. Pure functions.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/chat/chat_template.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {

// INVALID_ARGUMENT naming the field, or with the template's own message where it refuses the
// conversation or meets a limit. Any thread.
absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& prompt,
                                       const chat::ChatTemplate& chat_template);

}  // namespace tandem::server
