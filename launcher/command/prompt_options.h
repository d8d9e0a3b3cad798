// The prompt of a command that answers one: text, standard input, or token ids.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace tandem::launcher {

// Exactly one of the two is given.
struct PromptOptions {
  std::optional<std::string> text;  // "-": standard input
  std::vector<int32_t> ids;
};

void AddPrompt(CLI::App* app, PromptOptions* prompt);

// Throws CLI::ValidationError with the name of the command if there is no prompt.
void CheckPrompt(const char* command, const PromptOptions& prompt);

// The text itself, or all of standard input if the text is "-".
std::string ReadPromptText(const std::string& text);

}  // namespace tandem::launcher
