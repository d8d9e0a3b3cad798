#include "launcher/command/render.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"
#include "launcher/command/output.h"
#include "runtime/text/chat/chat_inputs.h"
#include "runtime/text/chat/chat_template_file.h"

namespace tandem::launcher {
namespace {

// The largest conversation.
constexpr size_t kMaxBytes = size_t{64} << 20;

absl::Status Render(const RenderOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const chat::ChatTemplate chat_template,
                          chat::LoadChatTemplate(options.model));
  std::string text;
  std::string name = "standard input";
  if (options.messages == "-") {
    TANDEM_ASSIGN_OR_RETURN(text, ReadStream(std::cin, name, kMaxBytes));
  } else {
    name = options.messages;
    TANDEM_ASSIGN_OR_RETURN(text, ReadFile(name, kMaxBytes));
  }
  TANDEM_ASSIGN_OR_RETURN(chat::ChatInputs inputs, chat::ParseChatInputs(text, name));
  if (const absl::Status prepared = chat_template.Prepare(&inputs); !prepared.ok()) {
    return absl::Status(prepared.code(), absl::StrCat(name, ": ", prepared.message()));
  }
  const absl::StatusOr<std::string> rendered = chat_template.Render(inputs);
  if (!rendered.ok()) {
    // A template that hits a limit is an error of the input: trying again does not help.
    return absl::InvalidArgumentError(
        absl::StrCat(options.model, ": chat template: ", rendered.status().message()));
  }
  return WriteStdout(*rendered);
}

}  // namespace

CLI::App* AddRender(CLI::App& parent, RenderOptions* options) {
  CLI::App* app =
      parent.add_subcommand("render", "Print the prompt that a chat template makes from messages");
  app->add_option(
         "MODEL", options->model,
         "Model folder, the name of a model in the local Hugging Face cache, or a .jinja file")
      ->required();
  app->add_option("--messages", options->messages,
                  "JSON file: {\"messages\":[...],\"tools\":[...],...}; - reads standard input")
      ->required();
  return app;
}

absl::StatusOr<int> RunRender(const RenderOptions& options, char** /*argv*/) {
  TANDEM_RETURN_IF_ERROR(Render(options));
  return 0;
}

}  // namespace tandem::launcher
