// The chat template of a Hugging Face model folder: which of several templates applies, and the
// variables that it gets.
//
// Source: the chat template chapter of the Transformers documentation, and the behaviour of
// its tokenizers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/text/chat/template_traits.h"
#include "runtime/text/jinja/template.h"

namespace tandem::chat {

struct ChatInputs {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  nlohmann::ordered_json tools;      // array; null: none
  nlohmann::ordered_json documents;  // array; null: none
  bool add_generation_prompt = true;
  // Further variables, an object or null; they win over the model's special tokens.
  nlohmann::ordered_json extra;
};

class ChatTemplate {
 public:
  // `tokenizer_config` is the text of tokenizer_config.json, `chat_template_jinja` that of
  // chat_template.jinja, if the folder has that file: it wins over chat_template in
  // tokenizer_config.json. With it there may be a template for conversations with tools,
  // `tool_use_jinja`.
  // NOT_FOUND if there is no template at all, INVALID_ARGUMENT naming the field otherwise.
  static absl::StatusOr<ChatTemplate> FromTokenizerConfig(
      std::string_view tokenizer_config,
      std::optional<std::string_view> chat_template_jinja = std::nullopt,
      std::optional<std::string_view> tool_use_jinja = std::nullopt);

  // Brings `inputs` into the form that the template which they choose reads (conversation.h).
  // INVALID_ARGUMENT also for tools and documents that this template does not show.
  absl::Status Prepare(ChatInputs* inputs) const;

  // Whether a prompt may depend on the date: a template calls strftime_now.
  bool uses_time() const { return uses_time_; }

  // The prompt, of inputs as they are. Errors as of Template::Render. Const; any number of threads
  // may call it. Inputs that are moved here are not copied.
  absl::StatusOr<std::string> Render(
      ChatInputs inputs, const jinja::RenderOptions& options = jinja::RenderOptions()) const;

 private:
  absl::Status ReadSpecialTokens(const nlohmann::ordered_json& config);
  absl::Status ReadTemplates(const nlohmann::ordered_json& config);  // its chat_template
  // A later template of the same name takes the place of the earlier one.
  absl::Status Add(const std::string& name, const std::string& text);
  struct Named {
    std::string name;
    jinja::Template parsed;
    TemplateTraits traits;
  };
  absl::StatusOr<const Named*> Choose(const ChatInputs& inputs) const;

  std::vector<Named> templates_;
  bool uses_time_ = false;
  // bos_token and so on, and the list additional_special_tokens: variables of every template.
  nlohmann::ordered_json special_tokens_ = nlohmann::ordered_json::object();
};

}  // namespace tandem::chat
