#include "runtime/text/tokenizer/stream_decoder.h"

#include <string_view>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/base/utf8.h"

namespace tandem::tokenizer {

absl::StatusOr<std::string> StreamDecoder::Append(int32_t id) {
  TANDEM_ASSIGN_OR_RETURN(const std::string_view bytes, tokenizer_.TokenBytes(id));
  std::string text;
  if (skip_special_tokens_ && tokenizer_.IsSpecial(id)) return text;
  pending_.append(bytes);
  pending_.erase(0, AppendDecidedUtf8(pending_, &text));
  return text;
}

std::string StreamDecoder::Flush() { return Utf8Lossy(std::exchange(pending_, {})); }

}  // namespace tandem::tokenizer
