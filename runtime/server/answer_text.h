// The text of one choice while it is generated: whole characters, and nothing that may still become
// a stop text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/text/tokenizer/stream_decoder.h"

namespace tandem::server {

// Stop texts of a request; empty ones are not allowed.
struct StopTexts {
  std::vector<std::string> texts;
  bool include = false;    // the stop text itself is part of the answer
  int32_t min_tokens = 0;  // the search begins after this many tokens
};

class AnswerText {
 public:
  // `tokenizer` must outlive this object.
  AnswerText(const tokenizer::Tokenizer& tokenizer, StopTexts stops)
      : decoder_(tokenizer, /*skip_special_tokens=*/true), stops_(std::move(stops)) {}

  // Appends to `out` the text that may be shown now. Ids without a token have no text. After a stop
  // text, more tokens change nothing.
  void Append(std::span<const int32_t> ids, std::string* out);
  // Ends the answer: appends the text that was held back.
  void Flush(std::string* out);

  // The stop text that ended the answer.
  const std::optional<std::string>& stopped_by() const { return stopped_by_; }

 private:
  // Searches held_ for stop texts and releases what cannot belong to one.
  void Release(std::string* out);

  tokenizer::StreamDecoder decoder_;
  const StopTexts stops_;
  int32_t tokens_ = 0;
  std::string held_;  // may be the beginning of a stop text
  std::optional<std::string> stopped_by_;
};

}  // namespace tandem::server
