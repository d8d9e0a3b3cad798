#include "launcher/command/tokenize.h"

#include <cstdint>
#include <iterator>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/json.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/loader/model_folder.h"
#include "runtime/rank/exit_code.h"
#include "runtime/text/tokenizer/tokenizer.h"
#include "runtime/text/tokenizer/utf8.h"

namespace tandem::launcher {
namespace {

absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> OpenTokenizer(const std::string& model) {
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder, loader::ModelFolder::Open(model));
  if (!folder.Has("tokenizer.json")) {
    return absl::NotFoundError(absl::StrCat(folder.path(), ": has no tokenizer.json"));
  }
  return tokenizer::Tokenizer::FromFile(folder.PathOf("tokenizer.json"));
}

std::string ReadAll(std::istream& in) {
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

absl::Status Write(std::ostream& out, const std::string& bytes) {
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.flush();
  return out.good() ? absl::OkStatus() : rank::OutputError("stdout: cannot be written");
}

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

absl::Status Tokenize(const TokenizeOptions& options, std::istream& in, std::ostream& out) {
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(options.model));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          tokenizer->Encode(ReadAll(in), options.add_special));
  return Write(out, options.json ? absl::StrCat("{\"ids\":[", absl::StrJoin(ids, ","), "]}\n")
                                 : absl::StrCat(absl::StrJoin(ids, " "), "\n"));
}

absl::Status Detokenize(const DetokenizeOptions& options, std::istream& in, std::ostream& out) {
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(options.model));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseIds(ReadAll(in)));
  TANDEM_ASSIGN_OR_RETURN(const std::string text, tokenizer->Decode(ids, options.skip_special));
  if (!options.json) return Write(out, text);  // the exact bytes, and no line end
  const nlohmann::json document = {{"text", tokenizer::Utf8Lossy(text)}};
  return Write(out, document.dump() + "\n");
}

}  // namespace

int RunTokenize(const TokenizeOptions& options, std::istream& in, std::ostream& out) {
  const absl::Status status = Tokenize(options, in, out);
  return status.ok() ? 0 : rank::ReportError(status);
}

int RunDetokenize(const DetokenizeOptions& options, std::istream& in, std::ostream& out) {
  const absl::Status status = Detokenize(options, in, out);
  return status.ok() ? 0 : rank::ReportError(status);
}

}  // namespace tandem::launcher
