#include "runtime/server/chat_prompt.h"

#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/field_error.h"
#include "runtime/text/chat/chat_inputs.h"

namespace tandem::server {
namespace {

using Json = nlohmann::ordered_json;
using google::protobuf::Struct;
using google::protobuf::Value;

constexpr double kMaxExactInteger = 9007199254740992.0;  // 2^53

Json ToJson(const Struct& fields);

// Recursion is bounded by the depth that protobuf parses.
Json ToJson(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNumberValue: {
      // Struct knows doubles only, but a template prints 3 and 3.0 differently.
      const double number = value.number_value();
      if (std::floor(number) == number && std::fabs(number) <= kMaxExactInteger) {
        return static_cast<int64_t>(number);
      }
      return number;
    }
    case Value::kStringValue:
      return value.string_value();
    case Value::kBoolValue:
      return value.bool_value();
    case Value::kStructValue:
      return ToJson(value.struct_value());
    case Value::kListValue: {
      Json list = Json::array();
      for (const Value& item : value.list_value().values()) list.push_back(ToJson(item));
      return list;
    }
    default:
      return nullptr;
  }
}

Json ToJson(const Struct& fields) {
  // The map's own order is random; the same request must give the same prompt.
  std::map<std::string, const Value*> sorted;
  for (const auto& [name, value] : fields.fields()) sorted.emplace(name, &value);
  Json object = Json::object();
  for (const auto& [name, value] : sorted) object[name] = ToJson(*value);
  return object;
}

// `values_left` is what may follow in this and later texts of the request.
absl::StatusOr<Json> ParseList(const std::string& text, const std::string& field,
                               size_t* values_left) {
  const size_t values = chat::CountJsonValues(text, *values_left);
  if (values > *values_left) {
    return engine::FieldError(
        field, absl::StrCat("more JSON values than allowed: at most ", chat::kMaxJsonValues,
                            " in all texts of the request"));
  }
  *values_left -= values;
  absl::StatusOr<Json> parsed = chat::ParseOrdered(text, field);
  if (!parsed.ok()) {
    std::string what(parsed.status().message());
    if (what.rfind(field + ": ", 0) == 0) what.erase(0, field.size() + 2);
    return engine::FieldError(field, what);
  }
  Json list = *std::move(parsed);
  if (!list.is_array()) {
    return engine::FieldError(field, absl::StrCat(list.type_name(), ", allowed: a JSON array"));
  }
  return list;
}

absl::StatusOr<Json> MessageToJson(const v1::ChatMessage& message, const std::string& field,
                                   size_t* values_left) {
  if (message.role().empty()) {
    return engine::FieldError(absl::StrCat(field, ".role"), "empty, allowed: a name");
  }
  Json json = {{"role", message.role()}};
  if (message.has_content()) json["content"] = message.content();
  if (message.content_parts_size() > 0) {
    if (message.has_content()) {
      return engine::FieldError(absl::StrCat(field, ".content_parts"),
                                "beside content, allowed: one of the two");
    }
    json["content"] = Json::array();
    for (const v1::ContentPart& part : message.content_parts()) {
      json["content"].push_back({{"type", "text"}, {"text", part.text()}});
    }
  }
  if (message.has_reasoning_content()) json["reasoning_content"] = message.reasoning_content();
  if (message.has_name()) json["name"] = message.name();
  if (message.has_tool_call_id()) json["tool_call_id"] = message.tool_call_id();
  if (message.has_tool_calls_json()) {
    TANDEM_ASSIGN_OR_RETURN(
        json["tool_calls"],
        ParseList(message.tool_calls_json(), absl::StrCat(field, ".tool_calls_json"), values_left));
  }
  return json;
}

}  // namespace

absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& prompt,
                                       const chat::ChatTemplate& chat_template,
                                       const RenderBudget& budget) {
  if (prompt.messages().empty()) {
    return engine::FieldError("messages.messages", "empty, allowed: at least 1 message");
  }
  size_t values_left = chat::kMaxJsonValues;
  chat::ChatInputs inputs;
  for (int i = 0; i < prompt.messages_size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(
        Json message, MessageToJson(prompt.messages(i), absl::StrCat("messages.messages[", i, "]"),
                                    &values_left));
    inputs.messages.push_back(std::move(message));
  }
  if (prompt.has_tools_json()) {
    TANDEM_ASSIGN_OR_RETURN(inputs.tools,
                            ParseList(prompt.tools_json(), "messages.tools_json", &values_left));
    if (inputs.tools.size() > chat::kMaxTools) {
      return engine::FieldError(
          "messages.tools_json",
          absl::StrCat(inputs.tools.size(), " tools, allowed: at most ", chat::kMaxTools));
    }
  }
  if (prompt.has_add_generation_prompt()) {
    inputs.add_generation_prompt = prompt.add_generation_prompt();
  }
  inputs.extra = ToJson(prompt.template_variables());
  for (const char* taken : {"messages", "tools", "add_generation_prompt"}) {
    if (inputs.extra.contains(taken)) {
      return engine::FieldError("messages.template_variables",
                                absl::StrCat(taken, ", allowed: names without a field"));
    }
  }
  if (const absl::Status prepared = chat_template.Prepare(&inputs); !prepared.ok()) {
    return engine::FieldError("messages", std::string(prepared.message()));
  }
  jinja::RenderOptions options;
  options.max_output_bytes = budget.output_bytes;
  options.max_memory_bytes = budget.memory_bytes;
  absl::StatusOr<std::string> rendered = chat_template.Render(std::move(inputs), options);
  if (rendered.ok()) return rendered;
  // A limit too: the same request would meet it again, so no status that asks for a retry.
  return engine::FieldError(
      "messages",
      absl::StrCat("chat template: ", rendered.status().message(),
                   absl::IsResourceExhausted(rendered.status()) ? budget.output_limit_reason : ""));
}

}  // namespace tandem::server
