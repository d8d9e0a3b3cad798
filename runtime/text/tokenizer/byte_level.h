// The byte-level alphabet of GPT-2: every byte is written as one printable character, so that a
// vocabulary of strings can hold any bytes. Printable Latin-1 stands for itself; the other 68
// bytes, in order, are U+0100 and up (a space is U+0120).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::tokenizer {

// The byte that a character of the alphabet stands for, or -1 for any other code point.
int ByteOfCodePoint(int32_t code_point);

// The bytes that a token of a byte-level vocabulary stands for; nullopt if it has a character
// outside the alphabet. `token` must be valid UTF-8.
std::optional<std::string> BytesOfToken(std::string_view token);

// The inverse: the token's string in the vocabulary, UTF-8.
std::string TokenOfBytes(std::string_view bytes);

}  // namespace tandem::tokenizer
