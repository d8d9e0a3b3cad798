#include "launcher/command/prompt_options.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <iterator>

namespace tandem::launcher {

void AddPrompt(CLI::App* app, PromptOptions* prompt) {
  CLI::Option* text =
      app->add_option("PROMPT", prompt->text, "Prompt text; - reads standard input");
  app->add_option("--prompt-ids", prompt->ids, "Prompt as token ids instead of text: 1,2,3")
      ->delimiter(',')
      ->check([](const std::string& id) {
        return id.empty() ? "expected token ids such as 1,2,3, found nothing" : std::string();
      })
      ->excludes(text);
}

void CheckPrompt(const char* command, const PromptOptions& prompt) {
  if (prompt.text.has_value() || !prompt.ids.empty()) return;
  throw CLI::ValidationError(command, "PROMPT or --prompt-ids is required");
}

std::string ReadPromptText(const std::string& text) {
  if (text != "-") return text;
  return std::string(std::istreambuf_iterator<char>(std::cin), {});
}

}  // namespace tandem::launcher
