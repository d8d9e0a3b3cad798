#include "launcher/command/render.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/text_file.h"
#include "runtime/rank/exit_code.h"
#include "runtime/text/chat/chat_inputs.h"
#include "runtime/text/chat/chat_template_file.h"

namespace tandem::launcher {
namespace {

// Of a conversation.
constexpr size_t kMaxBytes = size_t{64} << 20;

absl::Status Render(const RenderOptions& options, std::istream& in, std::ostream& out) {
  TANDEM_ASSIGN_OR_RETURN(const chat::ChatTemplate chat_template,
                          chat::LoadChatTemplate(options.model));
  std::string text;
  std::string name = "standard input";
  if (options.messages == "-") {
    TANDEM_ASSIGN_OR_RETURN(text, ReadStream(in, name, kMaxBytes));
  } else {
    name = options.messages;
    TANDEM_ASSIGN_OR_RETURN(text, ReadFile(name, kMaxBytes));
  }
  TANDEM_ASSIGN_OR_RETURN(const chat::ChatInputs inputs, chat::ParseChatInputs(text, name));
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

int RunRender(const RenderOptions& options, std::istream& in, std::ostream& out) {
  const absl::Status status = Render(options, in, out);
  return status.ok() ? 0 : rank::ReportError(status);
}

}  // namespace tandem::launcher
