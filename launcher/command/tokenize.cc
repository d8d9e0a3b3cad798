#include "launcher/command/tokenize.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "launcher/command/model_options.h"
#include "launcher/command/model_tokenizer.h"
#include "launcher/command/output.h"

namespace tandem::launcher {

CLI::App* AddTokenize(CLI::App& parent, TokenizeOptions* options) {
  CLI::App* app = parent.add_subcommand("tokenize", "Print the token ids of standard input");
  AddModel(app, &options->model);
  app->add_flag("--json", options->json, "Print {\"ids\":[...]}");
  app->add_flag("--add-special", options->add_special,
                "Add the special tokens that the model's prompts have");
  return app;
}

absl::StatusOr<int> RunTokenize(const TokenizeOptions& options, char** /*argv*/) {
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, NeedTokenizer(options.model));
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          tokenizer->Encode(text, options.add_special));
  TANDEM_RETURN_IF_ERROR(
      WriteStdout(options.json ? absl::StrCat("{\"ids\":[", absl::StrJoin(ids, ","), "]}\n")
                               : absl::StrCat(absl::StrJoin(ids, " "), "\n")));
  return 0;
}

}  // namespace tandem::launcher
