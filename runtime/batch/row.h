// One row of a batch job's input, in either of two forms:
//
//   {"custom_id", "method": "POST", "url": "/v1/chat/completions" | "/v1/completions", "body"}
//   {"id", "prompt" | "prompt_ids" | "messages", and sampling fields as in the protocol}
//
// Everything is checked here, before a model is loaded: names, types, ranges, the prompt's length
// and, for messages, the rendered chat template. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/engine/engine_client.h"
#include "runtime/engine/sampling_request.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::batch {

enum class RowForm : uint8_t { kShort, kChatCompletion, kCompletion };

struct BatchRow {
  int64_t line = 0;  // of the input, from 1
  std::string text;  // the line
  std::string id;    // as JSON: "\"a\"" or "7"
  RowForm form = RowForm::kShort;
  std::vector<int32_t> prompt_ids;
  engine::SamplingRequest sampling;  // with stop texts, which the engine does not know
  engine::SamplingParams params;     // of one choice: n is 1
  int32_t choices = 1;
  uint64_t key = 0;  // a hash of the row's text: another text is another row
};

// The date and the zone of all prompts of a job, whenever and wherever its rows are read.
struct PromptTime {
  absl::Time now = absl::Now();
  absl::TimeZone zone = absl::LocalTimeZone();

  // As in the journal, "2026-11-30T10:42:10.5+01:00".
  std::string ToText() const;
  // INVALID_ARGUMENT where it is no such text.
  static absl::StatusOr<PromptTime> FromText(const std::string& text);
};

// What rows are read against.
struct RowReader {
  const tokenizer::Tokenizer* tokenizer = nullptr;    // null: ids only
  const chat::ChatTemplate* chat_template = nullptr;  // null: no messages
  engine::SamplingRequest defaults;                   // of the command line; rows override them
  engine::SamplingRequest model_defaults;             // of generation_config.json
  engine::EngineLimits limits;
  uint64_t seed = 0;  // a row without a seed gets one from this seed and its key
  PromptTime time;

  // INVALID_ARGUMENT with the field's name, FAILED_PRECONDITION where there is no tokenizer or
  // template; messages do not name the line. `id_out` gets the id as soon as it is known.
  absl::StatusOr<BatchRow> Read(std::string_view line, int64_t number, std::string* id_out) const;
};

// BatchRow::key of a text, also of one that is no row.
uint64_t RowKey(std::string_view line);

}  // namespace tandem::batch
