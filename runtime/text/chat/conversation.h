// Brings the messages of a conversation into the form that a template reads, as far as that form is
// plain. What the template would drop or print as code is an error.
//
// Source: apply_chat_template of Transformers 5.24 for keys without a value and for the names of
// reasoning; OpenAI's chat API for content parts and tool calls.
#pragma once

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "runtime/text/chat/template_traits.h"

namespace tandem::chat {

// `messages` is an array of objects. In each:
//   - keys with null are dropped; an empty tool_calls, too;
//   - reasoning_content, thinking and reasoning are names of the same text;
//   - content that is a list of text parts is kept where the template iterates over lists, and
//     joined, with nothing between, where it wants text; a text becomes a list of one part where
//     the template takes lists only;
//   - content that is missing beside tool calls becomes what makes the template show them, in most
//     cases an empty text;
//   - arguments of tool calls that are JSON text become an object, or objects become JSON text, as
//     the template reads them; "" is {}.
// INVALID_ARGUMENT "messages[i].FIELD: found ..., expected ..." for a message without a role, for
// parts that are no text, for arguments that are no JSON object, and for tool calls that the
// template does not show.
absl::Status PrepareMessages(const TemplateTraits& traits, nlohmann::ordered_json* messages);

}  // namespace tandem::chat
