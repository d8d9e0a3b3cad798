#include "runtime/text/chat/chat_template.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/text/chat/conversation.h"

namespace tandem::chat {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};
constexpr char kMoreTokens[] = "additional_special_tokens";
constexpr int kMaxJsonDepth = 100;

absl::Status Bad(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json: ", message));
}

absl::StatusOr<Json> ParseConfig(std::string_view text) {
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t, Json&) {
    too_deep |= depth > kMaxJsonDepth;
    return !too_deep;
  };
  Json json = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (too_deep) return Bad("nested too deeply");
  if (json.is_discarded()) return Bad("not valid JSON");
  if (!json.is_object()) return Bad("expected an object");
  return json;
}

// The text of a special token, which is a string or an object with it.
absl::StatusOr<std::string> TokenText(const std::string& name, const Json& value) {
  const Json* token = &value;
  if (token->is_object()) {
    const auto content = token->find("content");
    if (content == token->end()) return Bad(absl::StrCat(name, " has no content"));
    token = &*content;
  }
  if (token->is_string()) return token->get<std::string>();
  return Bad(absl::StrCat(name, ": expected a string or an object, found ", token->type_name()));
}

absl::StatusOr<jinja::Template> ParseNamed(const std::string& name, const std::string& text) {
  absl::StatusOr<jinja::Template> parsed = jinja::Template::Parse(text);
  if (parsed.ok()) return parsed;
  return absl::Status(parsed.status().code(),
                      absl::StrCat("chat template '", name, "': ", parsed.status().message()));
}

}  // namespace

absl::StatusOr<ChatTemplate> ChatTemplate::FromTokenizerConfig(
    std::string_view tokenizer_config, std::optional<std::string_view> chat_template_jinja,
    std::optional<std::string_view> tool_use_jinja) {
  TANDEM_ASSIGN_OR_RETURN(const Json config, ParseConfig(tokenizer_config));
  ChatTemplate out;
  TANDEM_RETURN_IF_ERROR(out.ReadSpecialTokens(config));
  if (!chat_template_jinja.has_value()) {
    TANDEM_RETURN_IF_ERROR(out.ReadTemplates(config));
    return out;
  }
  TANDEM_RETURN_IF_ERROR(out.Add("default", std::string(*chat_template_jinja)));
  if (tool_use_jinja.has_value()) {
    TANDEM_RETURN_IF_ERROR(out.Add("tool_use", std::string(*tool_use_jinja)));
  }
  return out;
}

absl::Status ChatTemplate::ReadSpecialTokens(const Json& config) {
  for (std::string_view name : kSpecialTokens) {
    const auto found = config.find(std::string(name));
    if (found == config.end() || found->is_null()) continue;
    TANDEM_ASSIGN_OR_RETURN(special_tokens_[std::string(name)],
                            TokenText(std::string(name), *found));
  }
  const auto more = config.find(kMoreTokens);
  if (more == config.end() || !more->is_array() || more->empty()) return absl::OkStatus();
  Json& list = special_tokens_[kMoreTokens] = Json::array();
  for (const Json& token : *more) {
    TANDEM_ASSIGN_OR_RETURN(std::string text, TokenText(kMoreTokens, token));
    list.push_back(std::move(text));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::ReadTemplates(const Json& config) {
  const auto field = config.find("chat_template");
  if (field == config.end() || field->is_null()) {
    return absl::NotFoundError(
        "the model has no chat template: neither chat_template.jinja nor chat_template in "
        "tokenizer_config.json");
  }
  if (field->is_string()) return Add("default", field->get<std::string>());
  if (!field->is_array() || field->empty()) {
    return Bad(
        absl::StrCat("chat_template: expected a string or a list, found ", field->type_name()));
  }
  for (const Json& entry : *field) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") ||
        !entry["name"].is_string() || !entry["template"].is_string()) {
      return Bad("chat_template: each entry of the list needs the strings name and template");
    }
    TANDEM_RETURN_IF_ERROR(
        Add(entry["name"].get<std::string>(), entry["template"].get<std::string>()));
  }
  return absl::OkStatus();
}

absl::Status ChatTemplate::Add(const std::string& name, const std::string& text) {
  TANDEM_ASSIGN_OR_RETURN(jinja::Template parsed, ParseNamed(name, text));
  TemplateTraits traits = FindTraits(parsed, special_tokens_);
  uses_time_ = uses_time_ || absl::StrContains(text, "strftime_now");
  std::erase_if(templates_, [&](const Named& old) { return old.name == name; });
  templates_.push_back({name, std::move(parsed), std::move(traits)});
  return absl::OkStatus();
}

absl::StatusOr<const ChatTemplate::Named*> ChatTemplate::Choose(const ChatInputs& inputs) const {
  const Named* chosen = nullptr;
  for (const Named& candidate : templates_) {
    if (candidate.name == "default" && chosen == nullptr) chosen = &candidate;
    if (candidate.name == "tool_use" && !inputs.tools.is_null()) chosen = &candidate;
  }
  if (chosen == nullptr) {
    return absl::NotFoundError("the model has several chat templates but none named 'default'");
  }
  return chosen;
}

absl::Status ChatTemplate::Prepare(ChatInputs* inputs) const {
  TANDEM_ASSIGN_OR_RETURN(const Named* chosen, Choose(*inputs));
  const auto check = [](const char* name, const Json& list, bool ignored) {
    if (!ignored || list.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": found ", list.size(), ", expected none: the model's chat template ignores them"));
  };
  TANDEM_RETURN_IF_ERROR(check("tools", inputs->tools, chosen->traits.ignores_tools));
  TANDEM_RETURN_IF_ERROR(check("documents", inputs->documents, chosen->traits.ignores_documents));
  return PrepareMessages(chosen->traits, &inputs->messages);
}

absl::StatusOr<std::string> ChatTemplate::Render(ChatInputs inputs,
                                                 const jinja::RenderOptions& options) const {
  if (!inputs.extra.is_null() && !inputs.extra.is_object()) {
    return absl::InvalidArgumentError("extra template variables must be a JSON object");
  }
  TANDEM_ASSIGN_OR_RETURN(const Named* chosen, Choose(inputs));
  Json variables = special_tokens_;
  variables["messages"] = std::move(inputs.messages);
  // Absent tools and documents are None and not undefined, as Transformers passes them.
  variables["tools"] = std::move(inputs.tools);
  variables["documents"] = std::move(inputs.documents);
  variables["add_generation_prompt"] = inputs.add_generation_prompt;
  if (inputs.extra.is_object()) {
    for (auto& [name, value] : inputs.extra.items()) variables[name] = std::move(value);
  }
  return chosen->parsed.Render(variables, options);
}

}  // namespace tandem::chat
