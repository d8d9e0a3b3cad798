#include "runtime/text/chat/chat_template_file.h"

#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"

namespace tandem::chat {
namespace {

constexpr char kTemplateFile[] = "chat_template.jinja";
// Transformers keeps the template for conversations with tools in this file.
constexpr char kToolUseFile[] = "additional_chat_templates/tool_use.jinja";
constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr size_t kMaxBytes = size_t{64} << 20;

}  // namespace

absl::StatusOr<ChatTemplate> LoadChatTemplate(const std::string& model) {
  std::error_code error;
  if (absl::EndsWith(model, ".jinja") && !std::filesystem::is_directory(model, error)) {
    TANDEM_ASSIGN_OR_RETURN(const std::string text, tandem::ReadFile(model, kMaxBytes));
    return ChatTemplate::FromTokenizerConfig("{}", text);
  }
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder, loader::ModelFolder::Open(model));
  std::string config = "{}";  // special tokens may be missing, a template needs none
  if (folder.Has(kConfigFile)) {
    TANDEM_ASSIGN_OR_RETURN(config, folder.ReadSmallFile(kConfigFile, kMaxBytes));
  }
  std::optional<std::string> text;
  if (folder.Has(kTemplateFile)) {
    TANDEM_ASSIGN_OR_RETURN(text, folder.ReadSmallFile(kTemplateFile, kMaxBytes));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::optional<std::string> tool_use, ReadToolUseTemplate(folder));
  return ChatTemplate::FromTokenizerConfig(config, text, tool_use);
}

absl::StatusOr<std::optional<std::string>> ReadToolUseTemplate(const loader::ModelFolder& folder) {
  const std::string path = absl::StrCat(folder.path(), "/", kToolUseFile);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::optional<std::string>();
  return tandem::ReadFile(path, kMaxBytes);
}

}  // namespace tandem::chat
