#include "runtime/text/chat/template_traits.h"

#include <initializer_list>
#include <optional>
#include <string_view>

#include "absl/strings/match.h"

namespace tandem::chat {
namespace {

using Json = nlohmann::ordered_json;

// Words that no template writes by itself.
constexpr char kFirst[] = "TandemTrialA";
constexpr char kSecond[] = "TandemTrialB";
constexpr char kName[] = "tandem_trial";

Json Message(const char* role, Json content) {
  return Json{{"role", role}, {"content", std::move(content)}};
}

Json TextPart(const char* text) { return Json{{"type", "text"}, {"text", text}}; }

bool Contains(const std::optional<std::string>& text, const char* word) {
  return text.has_value() && absl::StrContains(*text, word);
}

class Trial {
 public:
  Trial(const jinja::Template& chat_template, const Json& variables)
      : template_(chat_template), variables_(variables) {
    // Far more than a conversation of four short messages needs, and little to compute.
    options_.max_steps = 200'000;
    options_.max_output_bytes = size_t{1} << 20;
    options_.max_memory_bytes = size_t{64} << 20;
    options_.now = absl::UnixEpoch();  // equal conversations must render alike
    options_.time_zone = absl::UTCTimeZone();
  }

  TemplateTraits Run() const {
    TemplateTraits traits;
    FindCallForm(&traits);
    const Json call = CallMessage(traits.no_content, traits.arguments_as_text);
    const Json user = Message("user", "x");
    const auto try_role = [&](const char* role, std::initializer_list<Json> before,
                              std::initializer_list<Json> after) {
      traits.content[role] = FindContentForms(role, before, after);
    };
    try_role("user", {}, {});
    try_role("system", {}, {user});
    try_role("assistant", {user}, {user});
    try_role("tool", {user, call}, {});
    traits.ignores_tools = Ignores("tools", ToolOfTrial());
    traits.ignores_documents = Ignores("documents", Json{{"title", kFirst}, {"text", kSecond}});
    return traits;
  }

 private:
  // nullopt where the template fails.
  std::optional<std::string> Render(Json messages, const char* list_name = nullptr,
                                    const Json& entry = Json()) const {
    Json variables = variables_;
    variables["messages"] = std::move(messages);
    variables["tools"] = nullptr;
    variables["documents"] = nullptr;
    variables["add_generation_prompt"] = true;
    if (list_name != nullptr) variables[list_name] = Json::array({entry});
    absl::StatusOr<std::string> text = template_.Render(variables, options_);
    if (!text.ok()) return std::nullopt;
    return *std::move(text);
  }

  static Json ToolOfTrial() {
    const Json property = {{"type", "string"}, {"description", kFirst}};
    return Json{{"type", "function"},
                {"function",
                 {{"name", kName},
                  {"description", kFirst},
                  {"parameters",
                   {{"type", "object"},
                    {"properties", {{"a", property}}},
                    {"required", Json::array({"a"})}}}}}};
  }

  static Json CallMessage(NoContent no_content, bool arguments_as_text) {
    Json arguments = {{"a", kFirst}};
    if (arguments_as_text) arguments = arguments.dump();
    Json message = {{"role", "assistant"}};
    if (no_content == NoContent::kEmptyText) message["content"] = "";
    if (no_content == NoContent::kNull) message["content"] = nullptr;
    // Some templates want an id of nine letters and digits.
    message["tool_calls"] =
        Json::array({Json{{"id", "trial0001"},
                          {"type", "function"},
                          {"function", {{"name", kName}, {"arguments", std::move(arguments)}}}}});
    return message;
  }

  // The first form in which the template shows the call.
  void FindCallForm(TemplateTraits* traits) const {
    const Json user = Message("user", "x");
    Json answer = Message("tool", "x");
    answer["name"] = kName;
    answer["tool_call_id"] = "trial0001";
    bool any_rendered = false;
    for (const NoContent form : {NoContent::kEmptyText, NoContent::kAbsent, NoContent::kNull}) {
      for (const bool as_text : {false, true}) {
        const Json call = CallMessage(form, as_text);
        for (const Json& messages : {Json::array({user, call, answer}),
                                     Json::array({user, call, user}), Json::array({user, call})}) {
          const std::optional<std::string> text = Render(messages);
          any_rendered |= text.has_value();
          if (!Contains(text, kName) || !Contains(text, kFirst)) continue;
          traits->no_content = form;
          traits->arguments_as_text = as_text;
          return;
        }
      }
    }
    traits->ignores_tool_calls = any_rendered;
  }

  ContentForms FindContentForms(const char* role, std::initializer_list<Json> before,
                                std::initializer_list<Json> after) const {
    const auto render = [&](Json content) {
      Json messages = Json::array();
      for (const Json& message : before) messages.push_back(message);
      messages.push_back(Message(role, std::move(content)));
      if (std::string_view(role) == "tool") {
        messages.back()["name"] = kName;
        messages.back()["tool_call_id"] = "trial0001";
      }
      for (const Json& message : after) messages.push_back(message);
      return Render(std::move(messages));
    };
    ContentForms forms;
    const std::optional<std::string> list =
        render(Json::array({TextPart(kFirst), TextPart(kSecond)}));
    if (list.has_value()) {
      const size_t first = list->find(kFirst);
      const size_t second = first == list->npos ? first : list->find(kSecond, first);
      // A list that is printed, as Python or JSON, names the key between the two texts.
      forms.list =
          second != list->npos && !absl::StrContains(list->substr(first, second - first), "text");
    }
    forms.text = !forms.list || Contains(render(kFirst), kFirst);
    return forms;
  }

  // Whether the list `name` changes no rendering that works with and without it.
  bool Ignores(const char* name, const Json& entry) const {
    const Json user = Message("user", "x");
    for (const Json& messages :
         {Json::array({user}), Json::array({Message("system", "x"), user})}) {
      const std::optional<std::string> without = Render(messages);
      const std::optional<std::string> with = Render(messages, name, entry);
      if (with.has_value() != without.has_value() || with != without) return false;
      if (!with.has_value() && messages.size() == 1) return false;  // it fails: nothing is known
    }
    return true;
  }

  const jinja::Template& template_;
  const Json& variables_;
  jinja::RenderOptions options_;
};

}  // namespace

ContentForms TemplateTraits::content_of(const std::string& role) const {
  auto found = content.find(role);
  if (found == content.end()) found = content.find("user");
  return found == content.end() ? ContentForms() : found->second;
}

TemplateTraits FindTraits(const jinja::Template& chat_template, const Json& variables) {
  return Trial(chat_template, variables).Run();
}

}  // namespace tandem::chat
