// Counts what a message's bytes hold before they are parsed: a field takes two bytes of a request,
// but tens or hundreds of bytes as part of a message. Pure functions.
#pragma once

#include <cstddef>

#include "absl/status/status.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/support/byte_buffer.h"

namespace tandem::server {

struct WireCounts {
  size_t messages = 0;         // of conversations
  size_t content_parts = 0;    // of all messages
  size_t template_values = 0;  // of template_variables, the inner ones included
  size_t json_bytes = 0;       // of tools and tool calls
  size_t other = 0;            // any other messages, texts and unknown fields

  size_t nodes() const { return messages + content_parts + template_values; }
};

// What requests may hold at most, beside chat::kMaxMessages and kMaxContentParts.
inline constexpr size_t kMaxTemplateValues = 4096;
inline constexpr size_t kMaxOtherFields = 65536;

// Follows the fields of `type`. Stops where the bytes are no such message: the parser says why.
WireCounts CountFields(const grpc::ByteBuffer& bytes, const google::protobuf::Descriptor& type);

// INVALID_ARGUMENT, an engine::FieldError, "FIELD: N ..., allowed: at most M".
absl::Status CheckCounts(const WireCounts& counts);

// The length of a GenerateRequest's prompt, from the first bytes of its fields alone: it takes no
// longer for a long prompt. Zeros where it does not show, and for messages.
struct PromptBytes {
  size_t text = 0;
  size_t token_ids = 0;  // as they are packed: up to 10 bytes an id
};
PromptBytes PeekPrompt(const grpc::ByteBuffer& generate_request);

}  // namespace tandem::server
