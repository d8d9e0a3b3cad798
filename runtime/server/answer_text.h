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

// Stop texts of a request, and what the text has; empty ones are not allowed.
struct StopTexts {
  std::vector<std::string> texts;
  bool include = false;             // the stop text itself is part of the answer
  int32_t min_tokens = 0;           // the search begins after this many tokens
  bool skip_special_tokens = true;  // they are no part of the answer's text
};

class AnswerText {
 public:
  // `tokenizer` must outlive this object.
  AnswerText(const tokenizer::Tokenizer& tokenizer, StopTexts stops);

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
  // Appends the visible part of the first `size` bytes held.
  void ReleaseFirst(size_t size, std::string* out);
  bool NamesASpecialToken(const std::string& stop) const;

  const tokenizer::Tokenizer& tokenizer_;
  tokenizer::StreamDecoder decoder_;
  const StopTexts stops_;
  std::vector<bool> sees_special_;  // by stop text: special tokens are text to it
  bool any_sees_special_ = false;
  int32_t tokens_ = 0;
  // What may be the beginning of a stop text. Of special tokens that the text leaves out the bytes
  // are here, too, but marked: where a stop text has one, it is searched for with them.
  std::string held_;
  std::vector<bool> hidden_;  // by byte of held_; empty: none is
  std::optional<std::string> stopped_by_;
};

}  // namespace tandem::server
