// Characters that the reference's patterns know and those of PCRE2 do not: PCRE2 10.42 has Unicode
// 14. For each, one that both know and that patterns treat alike: of the same category, properties
// and script, as far as tokenizers name them, and of as many bytes in UTF-8.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::tokenizer {

struct NewerCharacters {
  int32_t first;
  int32_t last;
  int32_t stand_in;  // of each of them
};

// In ascending order.
std::span<const NewerCharacters> AllNewerCharacters();

}  // namespace tandem::tokenizer
