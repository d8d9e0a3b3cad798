// Reads the inputs of a chat template from JSON text of outside. Pure functions.
#pragma once

#include <cstddef>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/text/chat/chat_template.h"

namespace tandem::chat {

// What a conversation may hold at most. A part, a message or a value of JSON takes a few bytes of a
// request, but hundreds of bytes of memory until the prompt is rendered.
inline constexpr size_t kMaxMessages = 4096;
inline constexpr size_t kMaxContentParts = 4096;  // of all messages together
inline constexpr size_t kMaxTools = 1024;
inline constexpr size_t kMaxJsonValues = 32768;  // of all JSON texts, the inner ones included

// The values of JSON text, the inner ones included, without building them; up to `most` + 1, and up
// to a syntax error.
size_t CountJsonValues(std::string_view text, size_t most);

// As json::Parse, with the order of keys kept: a template may write an object into the prompt.
// INVALID_ARGUMENT beginning with `name`.
absl::StatusOr<nlohmann::ordered_json> ParseOrdered(std::string_view text, std::string_view name);

// INVALID_ARGUMENT "FIELD: found N ..., expected at most M" for messages, content parts and tools
// beyond the limits; `prefix` stands before the names "messages" and "tools".
absl::Status CheckChatCounts(const ChatInputs& inputs, std::string_view prefix);

// `text` is {"messages": [...], "tools": [...], "documents": [...], "add_generation_prompt": true};
// only messages is required, an add_generation_prompt left out is true, and any further key is a
// template variable. INVALID_ARGUMENT beginning with `name` and naming the field.
absl::StatusOr<ChatInputs> ParseChatInputs(std::string_view text, std::string_view name);

}  // namespace tandem::chat
