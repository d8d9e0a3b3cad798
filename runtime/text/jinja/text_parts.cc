// Text taken apart and put together, for methods of str and filters.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {

absl::StatusOr<std::string> TextOf(const Value& value) {
  if (value.is_undefined()) return UndefinedError(value);
  if (!value.is_string()) {
    return TypeError(absl::StrCat("expected a str, got '", std::string(TypeName(value)), "'"));
  }
  return value.string();
}

std::string StripChars(std::string_view text, const Value* chars, bool left, bool right) {
  if (chars == nullptr) {
    if (left) text = StripLeft(text);
    if (right) text = StripRight(text);
    return std::string(text);
  }
  const std::u32string set = ToCodePoints(chars->string());
  const std::u32string all = ToCodePoints(text);
  size_t begin = 0, end = all.size();
  while (left && begin < end && set.find(all[begin]) != std::u32string::npos) ++begin;
  while (right && end > begin && set.find(all[end - 1]) != std::u32string::npos) --end;
  return FromCodePoints(std::u32string_view(all).substr(begin, end - begin));
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t at = pos;
    const char32_t c = DecodeUtf8(text, &pos);
    const bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    if (c == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    lines.emplace_back(text.substr(begin, (keep_ends ? pos : at) - begin));
    begin = pos;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

absl::StatusOr<std::string> ReplaceAll(Interpreter& in, std::string_view text,
                                       std::string_view from, std::string_view to, Int count) {
  JINJA_RETURN_IF_ERROR(in.Step(text.size() / 64));
  std::string out;
  size_t pos = 0;
  if (from.empty()) {  // between all characters
    while (count != 0) {
      out += to;
      --count;
      if (pos >= text.size()) break;
      const size_t begin = pos;
      DecodeUtf8(text, &pos);
      out += text.substr(begin, pos - begin);
      JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
    }
    out += text.substr(pos);
    return out;
  }
  for (; count != 0; --count) {
    const size_t at = text.find(from, pos);
    if (at == std::string_view::npos) break;
    out += text.substr(pos, at - pos);
    out += to;
    pos = at + from.size();
    JINJA_RETURN_IF_ERROR(in.heap().Check(out.size()));
  }
  out += text.substr(pos);
  return out;
}

std::vector<std::string_view> SplitSpace(std::string_view text, Int limit, bool from_right) {
  std::vector<std::string_view> parts;
  while (true) {
    text = from_right ? StripRight(text) : StripLeft(text);
    if (text.empty()) break;
    if (limit == 0) {
      parts.push_back(from_right ? StripRight(text) : StripLeft(text));
      // What is left keeps the white space on its far side only.
      break;
    }
    size_t cut = from_right ? 0 : text.size();
    size_t behind = cut;
    for (size_t pos = 0; pos < text.size();) {
      const size_t begin = pos;
      if (!IsSpace(DecodeUtf8(text, &pos))) continue;
      if (from_right) {
        cut = pos;
        behind = begin;
      } else {
        cut = begin;
        behind = pos;
        break;
      }
    }
    if (from_right) {
      parts.push_back(text.substr(cut));
      text = text.substr(0, cut == 0 ? 0 : behind);
    } else {
      parts.push_back(text.substr(0, cut));
      text = text.substr(behind);
    }
    --limit;
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

}  // namespace tandem::jinja
