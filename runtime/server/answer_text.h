// The text of one choice while it is being generated: whole characters, and nothing that may still
// turn out to be a stop text or the beginning of one.
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
  bool include = false;    // the text that stops is part of the answer
  int32_t min_tokens = 0;  // looked for in what comes after so many tokens
};

class AnswerText {
 public:
  // `tokenizer` must outlive this object.
  AnswerText(const tokenizer::Tokenizer& tokenizer, StopTexts stops)
      : decoder_(tokenizer, /*skip_special_tokens=*/true), stops_(std::move(stops)) {}

  // Appends to `out` what may be shown now. Ids without a token have no text. Once stopped, more
  // tokens change nothing.
  void Append(std::span<const int32_t> ids, std::string* out);
  // The end of the answer: what was held back.
  void Flush(std::string* out);

  // The stop text that ended the answer.
  const std::optional<std::string>& stopped_by() const { return stopped_by_; }

 private:
  // Looks for stop texts in held_ and gives out what cannot belong to one.
  void Release(std::string* out);

  tokenizer::StreamDecoder decoder_;
  const StopTexts stops_;
  int32_t tokens_ = 0;
  std::string held_;  // may be the beginning of a stop text
  std::optional<std::string> stopped_by_;
};

}  // namespace tandem::server
