#include "runtime/text/chat/conversation.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"
#include "runtime/text/chat/chat_inputs.h"

namespace tandem::chat {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Wrong(const std::string& field, const std::string& found, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": found ", found, ", expected ", expected));
}

void DropNulls(Json* message) {
  for (auto it = message->begin(); it != message->end();) {
    it = it->is_null() ? message->erase(it) : std::next(it);
  }
}

void AliasReasoning(Json* message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto found = message->find(name);
    if (found == message->end()) continue;
    const Json reasoning = *found;
    if (!message->contains("thinking")) (*message)["thinking"] = reasoning;
    (*message)["reasoning_content"] = reasoning;
    return;
  }
}

// Gives every part of a list the form {"type": "text", "text": ...}.
absl::Status CheckParts(const std::string& field, Json* parts) {
  for (size_t i = 0; i < parts->size(); ++i) {
    Json& part = (*parts)[i];
    const std::string place = absl::StrCat(field, "[", i, "]");
    if (part.is_string()) part = Json{{"type", "text"}, {"text", part}};
    if (!part.is_object()) return Wrong(place, json::Shown(part), "a part with its type");
    const auto type = part.find("type");
    if (type != part.end() && *type != "text") {
      return Wrong(absl::StrCat(place, ".type"), json::Shown(*type),
                   "\"text\": the model reads text only");
    }
    const auto text = part.find("text");
    if (text == part.end() || !text->is_string()) {
      return Wrong(absl::StrCat(place, ".text"),
                   text == part.end() ? "nothing" : json::Shown(*text), "a text");
    }
    if (type == part.end()) part["type"] = "text";
  }
  return absl::OkStatus();
}

absl::Status PrepareContent(const TemplateTraits& traits, const std::string& place, Json* message) {
  const auto content = message->find("content");
  if (content == message->end()) return absl::OkStatus();
  const ContentForms forms = traits.content_of((*message)["role"].get<std::string>());
  if (content->is_string()) {
    if (!forms.text && forms.list) {
      *content = Json::array({Json{{"type", "text"}, {"text", *content}}});
    }
    return absl::OkStatus();
  }
  const std::string field = absl::StrCat(place, ".content");
  if (!content->is_array()) {
    return Wrong(field, json::Shown(*content), "a text, a list of text parts or null");
  }
  TANDEM_RETURN_IF_ERROR(CheckParts(field, &*content));
  if (forms.list) return absl::OkStatus();
  std::string joined;
  for (const Json& part : *content) joined += part["text"].get_ref<const std::string&>();
  *content = std::move(joined);
  return absl::OkStatus();
}

// `values_left`: JSON values that texts may still hold.
absl::Status PrepareArguments(const TemplateTraits& traits, const std::string& place,
                              size_t* values_left, Json* call) {
  const auto arguments = call->find("arguments");
  if (arguments == call->end()) return absl::OkStatus();
  const std::string field = absl::StrCat(place, ".arguments");
  if (!arguments->is_string()) {
    if (!arguments->is_object()) {
      return Wrong(field, json::Shown(*arguments), "an object or its JSON text");
    }
    if (traits.arguments_as_text) *arguments = arguments->dump();
    return absl::OkStatus();
  }
  const std::string text = arguments->get<std::string>();
  Json object = Json::object();
  if (!text.empty()) {
    const size_t values = CountJsonValues(text, *values_left);
    if (values > *values_left) {
      return Wrong(field, "more JSON values", "fewer in the arguments of all calls");
    }
    *values_left -= values;
    absl::StatusOr<Json> parsed = ParseOrdered(text, field);
    if (!parsed.ok()) return parsed.status();
    if (!parsed->is_object()) {
      return Wrong(field, json::Shown(*parsed), "a JSON object");
    }
    object = *std::move(parsed);
  }
  if (!traits.arguments_as_text) {
    *arguments = std::move(object);
  } else if (text.empty()) {
    *arguments = "{}";
  }
  return absl::OkStatus();
}

bool HasNoText(const Json& message) {
  const auto content = message.find("content");
  return content == message.end() || content->empty() || *content == "";
}

absl::Status PrepareToolCalls(const TemplateTraits& traits, const std::string& place,
                              size_t* values_left, Json* message) {
  const auto found = message->find("tool_calls");
  if (found == message->end()) return absl::OkStatus();
  const std::string field = absl::StrCat(place, ".tool_calls");
  if (!found->is_array()) return Wrong(field, json::Shown(*found), "a list of calls");
  if (found->empty()) {
    message->erase(found);
    return absl::OkStatus();
  }
  if (traits.ignores_tool_calls) {
    return Wrong(field, absl::StrCat(found->size(), " calls"),
                 "none: the model's chat template does not show tool calls");
  }
  Json calls = *found;
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string at = absl::StrCat(field, "[", i, "]");
    if (!calls[i].is_object()) return Wrong(at, json::Shown(calls[i]), "an object");
    TANDEM_RETURN_IF_ERROR(PrepareArguments(traits, at, values_left, &calls[i]));
    const auto function = calls[i].find("function");
    if (function == calls[i].end()) continue;
    if (!function->is_object()) {
      return Wrong(absl::StrCat(at, ".function"), json::Shown(*function), "an object");
    }
    TANDEM_RETURN_IF_ERROR(
        PrepareArguments(traits, absl::StrCat(at, ".function"), values_left, &*function));
  }
  (*message)["tool_calls"] = std::move(calls);
  if (!HasNoText(*message)) {
    if (traits.no_content != NoContent::kNull) return absl::OkStatus();
    return Wrong(absl::StrCat(place, ".content"), "a text beside tool_calls",
                 "one of the two: the model's chat template shows no calls beside a text");
  }
  if (traits.no_content == NoContent::kAbsent) {
    message->erase("content");
  } else {
    (*message)["content"] = traits.no_content == NoContent::kNull ? Json(nullptr) : Json("");
  }
  return absl::OkStatus();
}

absl::Status PrepareMessage(const TemplateTraits& traits, const std::string& place,
                            size_t* values_left, Json* message) {
  if (!message->is_object()) return Wrong(place, json::Shown(*message), "an object");
  DropNulls(message);
  const auto role = message->find("role");
  if (role == message->end() || !role->is_string() || *role == "") {
    return Wrong(absl::StrCat(place, ".role"),
                 role == message->end() ? "nothing" : json::Shown(*role), "a name");
  }
  if (message->contains("function_call")) {
    return Wrong(absl::StrCat(place, ".function_call"), "a call", "none: give calls as tool_calls");
  }
  AliasReasoning(message);
  TANDEM_RETURN_IF_ERROR(PrepareContent(traits, place, message));
  return PrepareToolCalls(traits, place, values_left, message);
}

}  // namespace

absl::Status PrepareMessages(const TemplateTraits& traits, Json* messages) {
  size_t values_left = kMaxJsonValues;
  for (size_t i = 0; i < messages->size(); ++i) {
    TANDEM_RETURN_IF_ERROR(
        PrepareMessage(traits, absl::StrCat("messages[", i, "]"), &values_left, &(*messages)[i]));
  }
  return absl::OkStatus();
}

}  // namespace tandem::chat
