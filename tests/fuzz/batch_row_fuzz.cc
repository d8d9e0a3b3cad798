// A row of a batch job's input. What is read holds for the engine, means the same when it is read
// again, and gives lines of results that are JSON, one line each.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "nlohmann/json.hpp"
#include "runtime/batch/result.h"
#include "runtime/batch/row.h"

namespace {

using namespace tandem;  // NOLINT: a test

constexpr char kTokenizer[] =
    R"({"version":"1.0","added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"ByteLevel",)"
    R"("add_prefix_space":false,"use_regex":true},"post_processor":null,"decoder":{"type":)"
    R"("ByteLevel"},"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}})";
constexpr char kTemplate[] =
    "{% for m in messages %}{{ m.content if m.content is string else 'ab' }}{% endfor %}";

void Check(bool holds) {
  if (!holds) std::abort();
}

void CheckLine(const std::string& line) {
  Check(line.find('\n') == std::string::npos && nlohmann::json::accept(line));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = tokenizer::Tokenizer::FromJson(kTokenizer, "tokenizer");
  static const auto chat_template =
      chat::ChatTemplate::FromTokenizerConfig("{}", std::string_view(kTemplate));
  Check(tokenizer.ok() && chat_template.ok());
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  batch::RowReader reader;
  reader.tokenizer = tokenizer->get();
  reader.chat_template = &*chat_template;
  reader.limits = {.vocab_size = 1000, .max_model_len = 64, .max_queue = 64};
  std::string id;
  const absl::StatusOr<batch::BatchRow> row = reader.Read(text, 1, &id);
  if (!row.ok()) {
    for (const bool openai : {false, true}) {
      CheckLine(batch::ErrorLine(id, openai, 1, row.status()));
    }
    return 0;
  }
  Check(!row->prompt_ids.empty() && row->choices >= 1);
  Check(row->prompt_ids.size() < 64);
  for (const int32_t token : row->prompt_ids) Check(token >= 0 && token < 1000);
  Check(engine::ValidateSamplingParams(row->params, 1000).ok());
  const absl::StatusOr<batch::BatchRow> again = reader.Read(row->text, 1, &id);
  Check(again.ok() && again->key == row->key && again->prompt_ids == row->prompt_ids &&
        again->params.seed == row->params.seed && again->choices == row->choices);
  batch::ChoiceResult choice;
  choice.token_ids = {2, 999};
  choice.text = "ab\xff";  // a character that was cut off
  if (row->params.logprobs >= 0) {
    choice.chosen_logprobs = {{2, -0.5f}, {999, -1.0f}};
    choice.top_logprobs = {{{2, -0.5f}}, {{1, -0.75f}}};
  }
  const std::vector<batch::ChoiceResult> choices(static_cast<size_t>(row->choices), choice);
  CheckLine(batch::ResultLine(*row, choices, tokenizer->get(), "m"));
  CheckLine(batch::ResultLine(*row, choices, nullptr, "m"));
  return 0;
}
