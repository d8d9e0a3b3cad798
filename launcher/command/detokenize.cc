#include "launcher/command/detokenize.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/base/json.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"
#include "launcher/command/model_options.h"
#include "launcher/command/model_tokenizer.h"
#include "launcher/command/output.h"
#include "runtime/loader/hf_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/server/validation.h"

namespace tandem::launcher {
namespace {

absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text) {
  std::vector<int32_t> ids;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (text[first] == '{' || text[first] == '[')) {
    TANDEM_ASSIGN_OR_RETURN(const nlohmann::json document, json::Parse(text, "standard input"));
    const nlohmann::json* list = &document;
    if (document.is_object()) {
      const auto found = document.find("ids");
      if (found == document.end()) {
        return absl::InvalidArgumentError("standard input: the object has no \"ids\"");
      }
      list = &*found;
    }
    if (!list->is_array()) {
      return absl::InvalidArgumentError("standard input: \"ids\" is no list of numbers");
    }
    for (const nlohmann::json& item : *list) {
      if (!item.is_number_integer() ||
          (item.is_number_unsigned() &&
           item.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) ||
          item.get<int64_t>() < 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("standard input: ids[", ids.size(), "]: expected a token id"));
      }
      ids.push_back(item.get<int32_t>());
    }
    return ids;
  }
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty())) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(word, &id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("standard input: number ", ids.size() + 1, ": expected a token id"));
    }
    ids.push_back(id);
  }
  return ids;
}

// The model's, as a server has it: ids of its padding have no token and no text. The tokenizer's
// where there is no config.json.
absl::StatusOr<int32_t> VocabSize(const std::string& model, const tokenizer::Tokenizer& tokenizer) {
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder, loader::ModelFolder::Open(model));
  if (!folder.Has("config.json")) return tokenizer.vocab_size();
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelConfig config, loader::ReadConfig(folder));
  return std::max(static_cast<int32_t>(config.vocab_size), tokenizer.vocab_size());
}

}  // namespace

CLI::App* AddDetokenize(CLI::App& parent, DetokenizeOptions* options) {
  CLI::App* app = parent.add_subcommand(
      "detokenize",
      "Print the text of token ids from standard input: {\"ids\":[...]} or plain numbers");
  AddModel(app, &options->model);
  app->add_flag("--json", options->json, "Print {\"text\":...}");
  app->add_flag("--skip-special", options->skip_special, "Omit special tokens");
  return app;
}

absl::StatusOr<int> RunDetokenize(const DetokenizeOptions& options, char** /*argv*/) {
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, NeedTokenizer(options.model));
  const std::string input(std::istreambuf_iterator<char>(std::cin), {});
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(input));
  TANDEM_ASSIGN_OR_RETURN(const int32_t vocab_size, VocabSize(options.model, *tokenizer));
  TANDEM_RETURN_IF_ERROR(server::CheckTokenIds(ids, vocab_size, "ids"));
  TANDEM_ASSIGN_OR_RETURN(const std::string text, tokenizer->Decode(ids, options.skip_special));
  if (options.json) {
    const nlohmann::json document = {{"text", Utf8Lossy(text)}};
    TANDEM_RETURN_IF_ERROR(WriteStdout(document.dump() + "\n"));
  } else {
    TANDEM_RETURN_IF_ERROR(WriteStdout(text));  // the exact bytes, and no line end
  }
  return 0;
}

}  // namespace tandem::launcher
