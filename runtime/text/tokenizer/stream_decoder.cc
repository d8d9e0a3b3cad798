#include "runtime/text/tokenizer/stream_decoder.h"

#include <string_view>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::tokenizer {

absl::StatusOr<std::string> StreamDecoder::Append(int32_t id) {
  TANDEM_RETURN_IF_ERROR(tokenizer_.TokenBytes(id).status());
  std::string text;
  if (skip_special_tokens_ && tokenizer_.IsSpecial(id)) return text;
  if (!tokenizer_.decoder().is_byte_level()) {
    tokenizer_.decoder().Append(tokenizer_.SpellingOf(id), &state_, &text);
    return text;
  }
  pending_.append(tokenizer_.SpellingOf(id));
  pending_.erase(0, AppendDecidedUtf8(pending_, &text));
  return text;
}

std::string StreamDecoder::Flush() {
  std::string text = Utf8Lossy(std::exchange(pending_, {}));
  tokenizer_.decoder().Flush(&state_, &text);
  return text;
}

}  // namespace tandem::tokenizer
