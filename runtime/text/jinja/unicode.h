// Strings as Python has them: sequences of code points, kept as UTF-8.
//
// A byte that is not part of valid UTF-8 is one "code point" U+DC80..U+DCFF (as Python's
// surrogateescape has it) and is written back as that byte, so that nothing is lost or
// invented by a template that slices foreign text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::jinja {

// Decodes the code point at *pos (which must be inside text) and moves *pos behind it.
char32_t DecodeUtf8(std::string_view text, size_t* pos);
void AppendUtf8(char32_t c, std::string* out);
std::u32string ToCodePoints(std::string_view text);
std::string FromCodePoints(std::u32string_view text);

bool IsAscii(std::string_view text);
size_t CodePointCount(std::string_view text);
// Byte offset of the code point number `index` (== count gives the size).
size_t ByteOffset(std::string_view text, size_t index);

bool IsAlpha(char32_t c);
bool IsDecimal(char32_t c);
bool IsDigit(char32_t c);
bool IsNumeric(char32_t c);
bool IsSpace(char32_t c);
bool IsPrintable(char32_t c);
bool IsLower(char32_t c);
bool IsUpper(char32_t c);
bool IsTitle(char32_t c);  // title case letters such as U+01C5
inline bool IsCased(char32_t c) { return IsLower(c) || IsUpper(c) || IsTitle(c); }
inline bool IsAlnum(char32_t c) { return IsAlpha(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c); }

// str.upper and its kin, with the mappings of one letter to several.
std::string ToUpper(std::string_view text);
std::string ToLower(std::string_view text);
std::string ToTitle(std::string_view text);
std::string Capitalize(std::string_view text);
std::string SwapCase(std::string_view text);
std::string CaseFold(std::string_view text);

// str.strip() without an argument, one side each: Unicode white space.
std::string_view StripLeft(std::string_view text);
std::string_view StripRight(std::string_view text);

}  // namespace tandem::jinja
