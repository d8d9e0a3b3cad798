// Renders a request's chat messages as the prompt's text. Pure functions.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/chat/chat_template.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {

// What a rendering may take. The size of a request is bounded, what a template makes of it is not.
struct RenderBudget {
  size_t output_bytes = size_t{16} << 20;
  size_t memory_bytes = size_t{256} << 20;
  // What else the message says when the output is too long; empty: nothing.
  std::string output_limit_reason;
};

// A conversation within chat::kMaxMessages and the limits beside it. INVALID_ARGUMENT naming the
// field, or with the template's own message if it rejects the conversation or reaches a limit. Any
// thread.
absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& prompt,
                                       const chat::ChatTemplate& chat_template,
                                       const RenderBudget& budget = RenderBudget());

}  // namespace tandem::server
