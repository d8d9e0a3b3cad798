// What a chat template reads of a conversation, found by rendering small ones. Templates do not say
// whether they want a message's content as text or as a list of parts, or whether they show tools.
#pragma once

#include <string>

#include "absl/container/flat_hash_map.h"
#include "nlohmann/json.hpp"
#include "runtime/text/jinja/template.h"

namespace tandem::chat {

// How a role's content may be given. A template that fails on every trial is taken to want text.
struct ContentForms {
  bool text = true;   // shows a string
  bool list = false;  // iterates over a list of text parts, and so shows their texts
};

// What stands for the content of a message that has only tool calls.
enum class NoContent { kEmptyText, kAbsent, kNull };

struct TemplateTraits {
  ContentForms content_of(const std::string& role) const;

  absl::flat_hash_map<std::string, ContentForms> content;  // by role; other roles are as "user"
  NoContent no_content = NoContent::kEmptyText;
  // Arguments of tool calls are joined to the prompt as text; otherwise an object is read.
  bool arguments_as_text = false;
  // The template renders these without an error and without a trace of them.
  bool ignores_tool_calls = false;
  bool ignores_tools = false;
  bool ignores_documents = false;
};

// `variables`: what every rendering gets, such as bos_token.
TemplateTraits FindTraits(const jinja::Template& chat_template,
                          const nlohmann::ordered_json& variables);

}  // namespace tandem::chat
