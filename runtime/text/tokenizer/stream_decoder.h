// Token ids to text while they are being generated.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::tokenizer {

// One a stream; not thread-safe. Emits only whole characters, as soon as they are complete. What
// all calls give, put together, is Utf8Lossy(tokenizer.Decode(all ids)).
class StreamDecoder {
 public:
  // `tokenizer` must outlive this object.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}

  // The text that can be given out now; often empty in the middle of a character. Bytes that can
  // no longer become a character come as U+FFFD. InvalidArgument for an id without a token, which
  // leaves the stream as it was.
  absl::StatusOr<std::string> Append(int32_t id);

  // What is left, U+FFFD for an unfinished character, and begins anew.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;   // the beginning of a character, at most 3 bytes
  Decoder::State state_;  // of a vocabulary of characters
};

}  // namespace tandem::tokenizer
