// Reads the inputs of a chat template from JSON text of outside. Pure functions.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/text/chat/chat_template.h"

namespace tandem::chat {

// As json::Parse, with the order of keys kept: a template may write an object into the prompt.
// INVALID_ARGUMENT beginning with `name`.
absl::StatusOr<nlohmann::ordered_json> ParseOrdered(std::string_view text, std::string_view name);

// `text` is {"messages": [...], "tools": [...], "documents": [...], "add_generation_prompt": true};
// only messages is required, an add_generation_prompt left out is true, and any further key is a
// template variable. INVALID_ARGUMENT beginning with `name` and naming the field.
absl::StatusOr<ChatInputs> ParseChatInputs(std::string_view text, std::string_view name);

}  // namespace tandem::chat
