#include "launcher/command/model_tokenizer.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/model_folder.h"
#include "runtime/server/model_tokenizer.h"

namespace tandem::launcher {

absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> LoadTokenizer(const std::string& model) {
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder, loader::ModelFolder::Open(model));
  return server::LoadTokenizer(folder);
}

absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> NeedTokenizer(const std::string& model) {
  TANDEM_ASSIGN_OR_RETURN(auto tokenizer, LoadTokenizer(model));
  if (tokenizer == nullptr) {
    TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder, loader::ModelFolder::Open(model));
    return absl::NotFoundError(absl::StrCat(folder.path(), ": has no tokenizer.json"));
  }
  return tokenizer;
}

}  // namespace tandem::launcher
