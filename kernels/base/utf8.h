// UTF-8 as Unicode's table 3-7 defines it (no overlong forms, no surrogates), the same rules
// that Rust's standard library applies and so the reference tokenizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem {

// One step through text that may be invalid.
struct Utf8Step {
  // The character, or -1 where the bytes are invalid.
  int32_t code_point = -1;
  // Bytes it takes, at least 1; of invalid bytes, the maximal subpart: as many as could have
  // begun a character.
  size_t length = 1;
  // Invalid only because the text ends too early: more bytes could complete the character.
  bool incomplete = false;
};

// Reads the first character of `text`, which must not be empty.
Utf8Step NextUtf8(std::string_view text);

// The offset of the first byte that is not part of a character, or npos if `text` is valid.
size_t FindInvalidUtf8(std::string_view text);

// Appends the character. `code_point` must be a Unicode scalar value.
void AppendUtf8(int32_t code_point, std::string* out);

// The text with every maximal invalid subpart replaced by U+FFFD, as String::from_utf8_lossy of
// Rust does. Valid text comes back unchanged.
std::string Utf8Lossy(std::string_view bytes);

// Appends the decided part of `bytes` to `out`, invalid subparts as U+FFFD, and returns how many
// bytes it took. What it leaves, at most 3 bytes, is the beginning of a character that ends later.
size_t AppendDecidedUtf8(std::string_view bytes, std::string* out);

// Unicode's White_Space (which has been the same set since Unicode 6.3).
bool IsWhiteSpace(int32_t code_point);

// The last character of valid text, which must not be empty.
std::string_view LastCharacter(std::string_view text);

// U+FFFD.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace tandem
