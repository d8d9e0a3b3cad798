// The tokenizer of a model folder, as Transformers sets it up.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "runtime/loader/model_folder.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::server {

// tokenizer.json, and of tokenizer_config.json `add_bos_token: true`, where the tokenizer's class
// makes Transformers 4 keep it: then text with special tokens begins with bos_token, whatever the
// post-processor says. Null if the folder has no tokenizer.json. Logs a warning where the
// vocabulary lacks bytes of a text (once), or the bos_token.
absl::StatusOr<std::unique_ptr<tokenizer::Tokenizer>> LoadTokenizer(
    const loader::ModelFolder& folder);

}  // namespace tandem::server
