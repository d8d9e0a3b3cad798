#include "runtime/text/jinja/unicode.h"

#include <algorithm>

#include "kernels/base/utf8.h"
#include "runtime/text/jinja/unicode_tables.h"

namespace tandem::jinja {
namespace {

namespace tables = unicode_tables;

constexpr char32_t kEscapedByte = 0xDC00;

bool Contains(const tables::CharRange* ranges, size_t count, char32_t c) {
  const tables::CharRange* end = ranges + count;
  const tables::CharRange* found = std::upper_bound(
      ranges, end, c, [](char32_t value, const tables::CharRange& r) { return value < r.low; });
  return found != ranges && c <= (found - 1)->high;
}

struct Mapping {
  const tables::CaseRange* ranges;
  size_t count;
  const tables::CaseLong* longs;
  size_t long_count;
};

const Mapping kUpper = {tables::kToUpper, tables::kToUpperCount, tables::kToUpperLong,
                        tables::kToUpperLongCount};
const Mapping kLower = {tables::kToLower, tables::kToLowerCount, tables::kToLowerLong,
                        tables::kToLowerLongCount};
const Mapping kTitle = {tables::kToTitle, tables::kToTitleCount, tables::kToTitleLong,
                        tables::kToTitleLongCount};
const Mapping kFold = {tables::kToFold, tables::kToFoldCount, tables::kToFoldLong,
                       tables::kToFoldLongCount};

void AppendMapped(const Mapping& mapping, char32_t c, std::string* out) {
  const tables::CaseLong* long_end = mapping.longs + mapping.long_count;
  const tables::CaseLong* found = std::lower_bound(
      mapping.longs, long_end, c,
      [](const tables::CaseLong& entry, char32_t value) { return entry.from < value; });
  if (c != 0 && found != long_end && found->from == c) {
    for (uint32_t to : found->to) {
      if (to != 0) AppendUtf8(to, out);
    }
    return;
  }
  const tables::CaseRange* end = mapping.ranges + mapping.count;
  const tables::CaseRange* range =
      std::upper_bound(mapping.ranges, end, c,
                       [](char32_t value, const tables::CaseRange& r) { return value < r.low; });
  if (range != mapping.ranges) {
    --range;
    if (c <= range->high && (c - range->low) % range->stride == 0) {
      c = static_cast<char32_t>(static_cast<int64_t>(c) + range->delta);
    }
  }
  AppendUtf8(c, out);
}

std::string MapAll(const Mapping& mapping, std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) AppendMapped(mapping, DecodeUtf8(text, &pos), &out);
  return out;
}

// Python lowers a capital sigma that ends a word to the final form.
bool IsFinalSigma(std::string_view text, size_t begin, size_t end) {
  size_t before = begin;
  while (before > 0 && (static_cast<unsigned char>(text[before - 1]) & 0xC0) == 0x80) --before;
  if (before == 0) return false;
  --before;
  size_t pos = before;
  if (!IsCased(DecodeUtf8(text, &pos))) return false;
  if (end >= text.size()) return true;
  pos = end;
  return !IsCased(DecodeUtf8(text, &pos));
}

void AppendLower(std::string_view text, size_t begin, size_t end, char32_t c, std::string* out) {
  if (c == 0x3A3) {
    AppendUtf8(IsFinalSigma(text, begin, end) ? 0x3C2 : 0x3C3, out);
  } else {
    AppendMapped(kLower, c, out);
  }
}

}  // namespace

char32_t DecodeUtf8(std::string_view text, size_t* pos) {
  const Utf8Step step = NextUtf8(text.substr(*pos));
  if (step.code_point < 0) return kEscapedByte + static_cast<unsigned char>(text[(*pos)++]);
  *pos += step.length;
  return static_cast<char32_t>(step.code_point);
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c >= kEscapedByte + 0x80 && c <= kEscapedByte + 0xFF) {
    out->push_back(static_cast<char>(c - kEscapedByte));
  } else {
    tandem::AppendUtf8(static_cast<int32_t>(c), out);
  }
}

std::u32string ToCodePoints(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) out.push_back(DecodeUtf8(text, &pos));
  return out;
}

std::string FromCodePoints(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char32_t c : text) AppendUtf8(c, &out);
  return out;
}

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

size_t CodePointCount(std::string_view text) {
  size_t count = 0;
  for (size_t pos = 0; pos < text.size(); ++count) DecodeUtf8(text, &pos);
  return count;
}

size_t ByteOffset(std::string_view text, size_t index) {
  size_t pos = 0;
  for (; index > 0 && pos < text.size(); --index) DecodeUtf8(text, &pos);
  return pos;
}

bool IsAlpha(char32_t c) { return Contains(tables::kAlpha, tables::kAlphaCount, c); }
bool IsDecimal(char32_t c) { return Contains(tables::kDecimal, tables::kDecimalCount, c); }
bool IsDigit(char32_t c) { return Contains(tables::kDigit, tables::kDigitCount, c); }
bool IsNumeric(char32_t c) { return Contains(tables::kNumeric, tables::kNumericCount, c); }
bool IsSpace(char32_t c) { return Contains(tables::kSpace, tables::kSpaceCount, c); }
bool IsPrintable(char32_t c) { return Contains(tables::kPrintable, tables::kPrintableCount, c); }
bool IsLower(char32_t c) { return Contains(tables::kLowercase, tables::kLowercaseCount, c); }
bool IsUpper(char32_t c) { return Contains(tables::kUppercase, tables::kUppercaseCount, c); }
bool IsTitle(char32_t c) { return Contains(tables::kTitlecase, tables::kTitlecaseCount, c); }

std::string ToUpper(std::string_view text) { return MapAll(kUpper, text); }
std::string CaseFold(std::string_view text) { return MapAll(kFold, text); }

std::string ToLower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    AppendLower(text, begin, pos, c, &out);
  }
  return out;
}

std::string ToTitle(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool after_cased = false;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    if (after_cased) {
      AppendLower(text, begin, pos, c, &out);
    } else {
      AppendMapped(kTitle, c, &out);
    }
    after_cased = IsCased(c);
  }
  return out;
}

std::string Capitalize(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    if (begin == 0) {
      AppendMapped(kTitle, c, &out);
    } else {
      AppendLower(text, begin, pos, c, &out);
    }
  }
  return out;
}

std::string SwapCase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    if (IsUpper(c)) {
      AppendLower(text, begin, pos, c, &out);
    } else if (IsLower(c)) {
      AppendMapped(kUpper, c, &out);
    } else {
      AppendUtf8(c, &out);
    }
  }
  return out;
}

std::string_view StripLeft(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    size_t next = pos;
    if (!IsSpace(DecodeUtf8(text, &next))) break;
    pos = next;
  }
  return text.substr(pos);
}

std::string_view StripRight(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && end - begin < 4 &&
           (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) {
      --begin;
    }
    size_t pos = begin;
    if (!IsSpace(DecodeUtf8(text, &pos)) || pos != end) break;
    end = begin;
  }
  return text.substr(0, end);
}

}  // namespace tandem::jinja
