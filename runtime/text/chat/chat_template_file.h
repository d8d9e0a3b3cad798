// Where a chat template is found on disk.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/loader/model_folder.h"
#include "runtime/text/chat/chat_template.h"

namespace tandem::chat {

// `model` is a folder or a name in the hub's cache, of which only chat_template.jinja,
// additional_chat_templates/tool_use.jinja and tokenizer_config.json are read, or the path of a
// file whose name ends in .jinja. NOT_FOUND where there is no template, INVALID_ARGUMENT where it
// or tokenizer_config.json is broken.
absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& model);

// Text of additional_chat_templates/tool_use.jinja; nullopt where there is none.
absl::StatusOr<std::optional<std::string>> ReadToolUseTemplate(const loader::ModelFolder& folder);

}  // namespace tandem::chat
