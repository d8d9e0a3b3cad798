// The lines of a batch job's output: of results and of errors. Pure functions; no line ends.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/row.h"
#include "runtime/engine/engine_client.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::batch {

// One choice, finished.
struct ChoiceResult {
  std::vector<int32_t> token_ids;  // the stop token included
  std::string text;
  bool stopped = false;  // else max_tokens or the end of the context
  engine::Timings timings;
  int32_t cached_prompt_tokens = 0;
  // One entry a token where the row asks for log-probabilities, else none.
  std::vector<engine::TokenLogprob> chosen_logprobs;
  std::vector<std::vector<engine::TokenLogprob>> top_logprobs;
};

// Short form: {"id", "token_ids", "text", "finish_reason", "usage", "timings"}, without text where
// there is no tokenizer, with "logprobs": [{"token_id", "logprob", "top": [{"token_id",
// "logprob"}]}] where the row asks for them. Else OpenAI's: {"id", "custom_id", "response":
// {"status_code", "request_id", "body"}, "error"}.
std::string ResultLine(const BatchRow& row, std::span<const ChoiceResult> choices,
                       const tokenizer::Tokenizer* tokenizer, const std::string& model);

// {"id" or "custom_id", "line", "error": {"code", "message"}}; `id` is JSON, empty: null.
std::string ErrorLine(const std::string& id, bool openai, int64_t line, const absl::Status& error);

}  // namespace tandem::batch
