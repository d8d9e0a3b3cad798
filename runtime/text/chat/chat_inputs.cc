#include "runtime/text/chat/chat_inputs.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/json.h"

namespace tandem::chat {

using Json = nlohmann::ordered_json;

namespace {

// Stops where there is one value too many. Syntax errors are left to the parser.
class ValueCounter {
 public:
  explicit ValueCounter(size_t most) : most_(most) {}

  bool null() { return Count(); }
  bool boolean(bool) { return Count(); }
  bool number_integer(Json::number_integer_t) { return Count(); }
  bool number_unsigned(Json::number_unsigned_t) { return Count(); }
  bool number_float(Json::number_float_t, const std::string&) { return Count(); }
  bool string(std::string&) { return Count(); }
  bool binary(Json::binary_t&) { return Count(); }
  bool start_object(size_t) { return Count(); }
  bool start_array(size_t) { return Count(); }
  bool key(std::string&) { return true; }
  bool end_object() { return true; }
  bool end_array() { return true; }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) { return false; }

  size_t count() const { return count_; }

 private:
  bool Count() { return ++count_ <= most_; }

  const size_t most_;
  size_t count_ = 0;
};

absl::Status TooMany(std::string_view prefix, const char* field, size_t found, const char* what,
                     size_t most) {
  return absl::InvalidArgumentError(absl::StrCat(std::string(prefix), field, ": found ", found, " ",
                                                 what, ", expected at most ", most));
}

}  // namespace

absl::Status CheckChatCounts(const ChatInputs& inputs, std::string_view prefix) {
  if (inputs.messages.size() > kMaxMessages) {
    return TooMany(prefix, "messages", inputs.messages.size(), "messages", kMaxMessages);
  }
  size_t parts = 0;
  for (const Json& message : inputs.messages) {
    const auto content = message.find("content");
    if (content != message.end() && content->is_array()) parts += content->size();
  }
  if (parts > kMaxContentParts) {
    return TooMany(prefix, "messages", parts, "parts of contents in all messages",
                   kMaxContentParts);
  }
  if (inputs.tools.size() > kMaxTools) {
    return TooMany(prefix, "tools", inputs.tools.size(), "tools", kMaxTools);
  }
  return absl::OkStatus();
}

size_t CountJsonValues(std::string_view text, size_t most) {
  ValueCounter counter(most);
  (void)Json::sax_parse(text.begin(), text.end(), &counter);
  return counter.count();
}

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
