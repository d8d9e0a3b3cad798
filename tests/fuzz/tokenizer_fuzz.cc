// tokenizer.json; what loads must take any text, and give ids that decode.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "runtime/text/tokenizer/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = tandem::tokenizer::Tokenizer::FromJson(text, "tokenizer.json");
  if (!tokenizer.ok()) return 0;
  for (const std::string_view sample :
       {"Hello, world  123\n\n\tx", "gr\u00fc\u00dfe \U0001f642 \u65e5\u672c", "", "<s>a</s>"}) {
    const auto ids = (*tokenizer)->Encode(sample, /*add_special_tokens=*/true);
    if (!ids.ok()) continue;
    if (!(*tokenizer)->Decode(*ids, /*skip_special_tokens=*/false).ok()) std::abort();
  }
  return 0;
}
