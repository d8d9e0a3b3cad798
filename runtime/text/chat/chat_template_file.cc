#include "runtime/text/chat/chat_template_file.h"

#include <filesystem>
#include <fstream>
#include <istream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/rank/exit_code.h"
#include "runtime/text/chat/chat_inputs.h"

namespace tandem::launcher {
namespace {

constexpr char kTemplateFile[] = "chat_template.jinja";
// Where Transformers keeps a template for conversations with tools beside the other.
constexpr char kToolUseFile[] = "additional_chat_templates/tool_use.jinja";
constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr size_t kMaxBytes = size_t{64} << 20;

// All of a stream, if it is no longer than a template or a conversation can be.
absl::StatusOr<std::string> ReadBounded(std::istream& in, const std::string& name) {
  std::string text(kMaxBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (in.bad()) return absl::DataLossError(absl::StrCat(name, ": cannot be read"));
  if (text.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": found more than ", kMaxBytes >> 20, " MiB, expected less"));
  }
  return text;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file.is_open() || std::filesystem::is_directory(path, error)) {
    return absl::DataLossError(absl::StrCat(path, ": cannot be read"));
  }
  return ReadBounded(file, path);
}

absl::Status Render(const RenderOptions& options, std::istream& in, std::ostream& out) {
  TANDEM_ASSIGN_OR_RETURN(const jinja::ChatTemplate chat_template, LoadChatTemplate(options.model));
  std::string text;
  std::string name = "standard input";
  if (options.messages == "-") {
    TANDEM_ASSIGN_OR_RETURN(text, ReadBounded(in, name));
  } else {
    name = options.messages;
    TANDEM_ASSIGN_OR_RETURN(text, ReadFile(name));
  }
  TANDEM_ASSIGN_OR_RETURN(const jinja::ChatInputs inputs, jinja::ParseChatInputs(text, name));
  const absl::StatusOr<std::string> rendered = chat_template.Render(inputs);
  if (!rendered.ok()) {
    // Whatever stops a template, a limit too, the input is at fault: waiting does not help.
    return absl::InvalidArgumentError(
        absl::StrCat(options.model, ": chat template: ", rendered.status().message()));
  }
  out.write(rendered->data(), static_cast<std::streamsize>(rendered->size()));
  out.flush();
  return out.good() ? absl::OkStatus() : absl::DataLossError("cannot write to standard output");
}

}  // namespace

absl::StatusOr<jinja::ChatTemplate> LoadChatTemplate(const std::string& model) {
  std::error_code error;
  if (absl::EndsWith(model, ".jinja") && !std::filesystem::is_directory(model, error)) {
    TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadFile(model));
    return jinja::ChatTemplate::FromTokenizerConfig("{}", text);
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
  return jinja::ChatTemplate::FromTokenizerConfig(config, text, tool_use);
}

absl::StatusOr<std::optional<std::string>> ReadToolUseTemplate(const loader::ModelFolder& folder) {
  const std::string path = absl::StrCat(folder.path(), "/", kToolUseFile);
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::optional<std::string>();
  return ReadFile(path);
}

int RunRender(const RenderOptions& options, std::istream& in, std::ostream& out) {
  const absl::Status status = Render(options, in, out);
  return status.ok() ? 0 : ReportError(status);
}

}  // namespace tandem::launcher
