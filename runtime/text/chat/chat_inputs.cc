#include "runtime/text/chat/chat_inputs.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/json.h"

namespace tandem::chat {

using Json = nlohmann::ordered_json;

absl::StatusOr<Json> ParseOrdered(std::string_view text, std::string_view name) {
  // The strict parser refuses what is unsafe or ambiguous; it keeps no order, hence the second.
  const absl::StatusOr<nlohmann::json> checked = json::Parse(text, name);
  if (!checked.ok()) return checked.status();
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

absl::StatusOr<ChatInputs> ParseChatInputs(std::string_view text, std::string_view name) {
  absl::StatusOr<Json> document = ParseOrdered(text, name);
  if (!document.ok()) return document.status();
  const auto bad = [name](const std::string& field, const Json& found, const char* expected) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": ", field, ": found ",
                                                   found.type_name(), ", expected ", expected));
  };
  if (!document->is_object()) return bad("the document", *document, "an object");
  ChatInputs inputs;
  inputs.extra = Json::object();
  bool has_messages = false;
  for (const auto& [key, value] : document->items()) {
    const bool is_list = value.is_array();
    if (key == "messages") {
      if (!is_list) return bad(key, value, "a list");
      for (const Json& message : value) {
        if (!message.is_object()) return bad(key, message, "a list of objects");
      }
      inputs.messages = value;
      has_messages = true;
    } else if (key == "tools" || key == "documents") {
      if (!is_list && !value.is_null()) return bad(key, value, "a list or null");
      (key == "tools" ? inputs.tools : inputs.documents) = value;
    } else if (key == "add_generation_prompt") {
      if (!value.is_boolean()) return bad(key, value, "true or false");
      inputs.add_generation_prompt = value.get<bool>();
    } else {
      inputs.extra[key] = value;
    }
  }
  if (!has_messages) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(name), ": has no \"messages\""));
  }
  return inputs;
}

}  // namespace tandem::chat
