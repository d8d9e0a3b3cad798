// The tokenizer in a model's folder.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::launcher {

// `model` is a folder or a name in the local Hugging Face cache. Null if the folder has no
// tokenizer.json.
absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> LoadTokenizer(const std::string& model);

// Likewise, but NOT_FOUND if the folder has no tokenizer.json.
absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> NeedTokenizer(const std::string& model);

}  // namespace tandem::launcher
