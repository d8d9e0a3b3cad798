#include "runtime/text/jinja/lexer.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

// "\r\n" and "\r" count as "\n", and one newline at the end of the template is dropped.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out.push_back('\n');
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out.push_back(source[i]);
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool IsDecimalDigit(char c) { return c >= '0' && c <= '9'; }

bool IsNameChar(char32_t c) {
  if (c < 0x80) return c == '_' || IsAlnum(c);
  return IsAlnum(c);
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : owned_(NormalizeNewlines(source)), text_(owned_) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (pos_ < text_.size()) {
      if (absl::Status status = LexRoot(); !status.ok()) return status;
    }
    Emit(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(std::string_view message) const {
    return absl::InvalidArgumentError(
        absl::StrCat("line ", line_, ": ", absl::string_view(message.data(), message.size())));
  }
  bool At(size_t pos, std::string_view what) const {
    return text_.substr(std::min(pos, text_.size()), what.size()) == what;
  }
  void Emit(TokenType type, std::string value) {
    tokens_.push_back(Token{type, std::move(value), line_});
  }
  void AdvanceTo(size_t pos) {
    line_ += static_cast<int>(std::count(text_.begin() + pos_, text_.begin() + pos, '\n'));
    pos_ = pos;
  }
  size_t SkipSpace(size_t pos) const { return text_.size() - StripLeft(text_.substr(pos)).size(); }

  // The end of a tag's closing mark if one is at `pos`, else npos: "-%}" swallows all white
  // space behind it, "%}" one newline (trim_blocks), "+%}" none.
  size_t MatchEnd(size_t pos, std::string_view mark, bool block) const {
    if (block && At(pos, "+") && At(pos + 1, mark)) return pos + 1 + mark.size();
    if (At(pos, "-") && At(pos + 1, mark)) return SkipSpace(pos + 1 + mark.size());
    if (At(pos, mark)) {
      const size_t end = pos + mark.size();
      return block && At(end, "\n") ? end + 1 : end;
    }
    return std::string_view::npos;
  }

  // `{% raw %}` at pos (which has "{%"): the end of the tag, else npos. Unlike other blocks
  // the opening tag keeps the newline behind it.
  size_t MatchRaw(size_t pos) const {
    pos += 2;
    if (At(pos, "-") || At(pos, "+")) ++pos;
    pos = SkipSpace(pos);
    if (!At(pos, "raw")) return std::string_view::npos;
    pos = SkipSpace(pos + 3);
    if (At(pos, "-%}")) return SkipSpace(pos + 3);
    return At(pos, "%}") ? pos + 2 : std::string_view::npos;
  }

  // `{% endraw %}` at pos: the end of the tag, else npos.
  size_t MatchEndRaw(size_t pos) const {
    pos += 2;
    if (At(pos, "-") || At(pos, "+")) ++pos;
    pos = SkipSpace(pos);
    if (!At(pos, "endraw")) return std::string_view::npos;
    return MatchEnd(SkipSpace(pos + 6), "%}", true);
  }

  // Emits the text before a tag at `tag`, with the white space that the tag takes away.
  void EmitData(size_t tag, bool variable) {
    std::string_view data = text_.substr(pos_, tag - pos_);
    if (At(tag + 2, "-")) {
      data = StripRight(data);
    } else if (!At(tag + 2, "+") && !variable) {
      const size_t newline = data.rfind('\n');
      const size_t line_begin = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_begin > 0 || line_starting_) && StripLeft(data.substr(line_begin)).empty()) {
        data = data.substr(0, line_begin);
      }
    }
    if (!data.empty()) Emit(TokenType::kData, std::string(data));
    AdvanceTo(tag);
  }

  // Whether what ends at pos_ ended a line: the next tag may then be stripped to its left.
  void NoteLineStart() { line_starting_ = pos_ > 0 && text_[pos_ - 1] == '\n'; }

  absl::Status LexRoot() {
    size_t tag = pos_;
    for (;; ++tag) {
      tag = text_.find('{', tag);
      if (tag == std::string_view::npos || tag + 1 >= text_.size()) {
        Emit(TokenType::kData, std::string(text_.substr(pos_)));
        AdvanceTo(text_.size());
        return absl::OkStatus();
      }
      const char next = text_[tag + 1];
      if (next == '%' || next == '{' || next == '#') break;
    }
    const char kind = text_[tag + 1];
    EmitData(tag, kind == '{');
    if (kind == '%') {
      const size_t raw = MatchRaw(tag);
      if (raw != std::string_view::npos) return LexRaw(raw);
    }
    size_t begin = tag + 2;
    if (At(begin, "-") || At(begin, "+")) ++begin;
    if (kind == '#') return LexComment(begin);
    Emit(kind == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, "");
    AdvanceTo(begin);
    return LexTag(kind == '%');
  }

  absl::Status LexComment(size_t begin) {
    for (size_t end = begin; end < text_.size(); ++end) {
      const size_t behind = MatchEnd(end, "#}", true);
      if (behind != std::string_view::npos) {
        AdvanceTo(behind);
        NoteLineStart();
        return absl::OkStatus();
      }
    }
    return Error("comment is not closed: missing '#}'");
  }

  absl::Status LexRaw(size_t begin) {
    const int opened = line_;
    AdvanceTo(begin);
    NoteLineStart();
    for (size_t tag = pos_; (tag = text_.find("{%", tag)) != std::string_view::npos; ++tag) {
      const size_t behind = MatchEndRaw(tag);
      if (behind == std::string_view::npos) continue;
      EmitData(tag, false);
      AdvanceTo(behind);
      NoteLineStart();
      return absl::OkStatus();
    }
    line_ = opened;
    return Error("block 'raw' is not closed: missing '{% endraw %}'");
  }

  absl::Status LexTag(bool block) {
    const TokenType end_type = block ? TokenType::kBlockEnd : TokenType::kVariableEnd;
    const std::string_view mark = block ? "%}" : "}}";
    std::string brackets;
    const int opened = line_;
    while (pos_ < text_.size()) {
      if (brackets.empty()) {
        const size_t behind = MatchEnd(pos_, mark, block);
        if (behind != std::string_view::npos) {
          Emit(end_type, "");
          AdvanceTo(behind);
          NoteLineStart();
          return absl::OkStatus();
        }
      }
      const size_t after_space = SkipSpace(pos_);
      if (after_space != pos_) {
        AdvanceTo(after_space);
        continue;
      }
      if (absl::Status status = LexToken(&brackets); !status.ok()) return status;
    }
    line_ = opened;
    return Error(block ? "block tag is not closed: missing '%}'"
                       : "expression is not closed: missing '}}'");
  }

  absl::Status LexToken(std::string* brackets) {
    const char c = text_[pos_];
    if (IsDecimalDigit(c)) return LexNumber();
    if (c == '\'' || c == '"') return LexString(c);
    size_t end = pos_;
    if (IsNameChar(DecodeUtf8(text_, &end))) {
      for (size_t next = end; next < text_.size() && IsNameChar(DecodeUtf8(text_, &next));) {
        end = next;
      }
      Emit(TokenType::kName, std::string(text_.substr(pos_, end - pos_)));
      AdvanceTo(end);
      return absl::OkStatus();
    }
    return LexOperator(brackets);
  }

  absl::Status LexOperator(std::string* brackets) {
    for (std::string_view op : {"//", "**", "==", "!=", ">=", "<="}) {
      if (At(pos_, op)) {
        Emit(TokenType::kOperator, std::string(op));
        AdvanceTo(pos_ + 2);
        return absl::OkStatus();
      }
    }
    const char c = text_[pos_];
    if (std::string_view("+-/*%~[](){}><=.:|,;").find(c) == std::string_view::npos) {
      size_t end = pos_;
      DecodeUtf8(text_, &end);
      return Error(
          absl::StrCat("unexpected character '", std::string(text_.substr(pos_, end - pos_)), "'"));
    }
    if (c == '{' || c == '(' || c == '[') {
      brackets->push_back(c == '{' ? '}' : c == '(' ? ')' : ']');
    } else if (c == '}' || c == ')' || c == ']') {
      if (brackets->empty()) return Error(absl::StrCat("unexpected '", std::string(1, c), "'"));
      if (brackets->back() != c) {
        return Error(absl::StrCat("unexpected '", std::string(1, c), "', expected '",
                                  std::string(1, brackets->back()), "'"));
      }
      brackets->pop_back();
    }
    Emit(TokenType::kOperator, std::string(1, c));
    AdvanceTo(pos_ + 1);
    return absl::OkStatus();
  }

  // Digits with single underscores between them, from pos; returns where they end.
  size_t Digits(size_t pos, std::string_view allowed, std::string* out) const {
    bool first = true;
    while (pos < text_.size()) {
      size_t at = pos;
      if (!first && text_[at] == '_') ++at;
      if (at >= text_.size() || allowed.find(text_[at]) == std::string_view::npos) break;
      out->push_back(text_[at]);
      pos = at + 1;
      first = false;
    }
    return pos;
  }

  absl::Status LexNumber() {
    constexpr std::string_view kDecimalDigits = "0123456789";
    std::string value;
    size_t end = Digits(pos_, kDecimalDigits, &value);
    bool is_float = false;
    if (pos_ == 0 || text_[pos_ - 1] != '.') {
      if (At(end, ".") && end + 1 < text_.size() && IsDecimalDigit(text_[end + 1])) {
        value.push_back('.');
        end = Digits(end + 1, kDecimalDigits, &value);
        is_float = true;
      }
      if (At(end, "e") || At(end, "E")) {
        size_t exponent = end + 1;
        std::string digits = "e";
        if (At(exponent, "+") || At(exponent, "-")) digits.push_back(text_[exponent++]);
        if (exponent < text_.size() && IsDecimalDigit(text_[exponent])) {
          end = Digits(exponent, kDecimalDigits, &digits);
          value += digits;
          is_float = true;
        }
      }
    }
    if (is_float) {
      Emit(TokenType::kFloat, std::move(value));
      AdvanceTo(end);
      return absl::OkStatus();
    }
    return LexInteger();
  }

  absl::Status LexInteger() {
    std::string value;
    size_t end = pos_;
    if (text_[pos_] != '0') {
      end = Digits(pos_, "0123456789", &value);
    } else {
      const char base = pos_ + 1 < text_.size() ? static_cast<char>(text_[pos_ + 1] | 0x20) : ' ';
      const std::string_view digits = base == 'x'   ? "0123456789abcdefABCDEF"
                                      : base == 'o' ? "01234567"
                                      : base == 'b' ? "01"
                                                    : "";
      if (!digits.empty()) {
        size_t begin = pos_ + 2;
        if (At(begin, "_")) ++begin;
        end = Digits(begin, digits, &value);
        if (end > begin) {
          value = absl::StrCat("0", std::string(1, base), value);
        } else {
          value.clear();
        }
      }
      if (value.empty()) end = Digits(pos_, "0", &value);
    }
    Emit(TokenType::kInteger, std::move(value));
    AdvanceTo(end);
    return absl::OkStatus();
  }

  absl::Status LexString(char quote) {
    size_t end = pos_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) return Error("string is not closed");
    absl::StatusOr<std::string> value = Unescape(text_.substr(pos_ + 1, end - pos_ - 1));
    if (!value.ok()) return value.status();
    Emit(TokenType::kString, *std::move(value));
    AdvanceTo(end + 1);
    return absl::OkStatus();
  }

  // Python's string escapes, by way of Jinja2's detour over ASCII.
  absl::StatusOr<std::string> Unescape(std::string_view raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size();) {
      if (raw[i] != '\\' || i + 1 >= raw.size()) {
        out.push_back(raw[i++]);
        continue;
      }
      const char c = raw[i + 1];
      constexpr std::string_view kFrom = "\\'\"abfnrtv";
      constexpr std::string_view kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t at = kFrom.find(c); at != std::string_view::npos) {
        out.push_back(kTo[at]);
        i += 2;
      } else if (c == '\n') {
        i += 2;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        uint32_t code = 0;
        for (size_t d = 0; d < digits; ++d) {
          const size_t at = i + 2 + d;
          const char h = at < raw.size() ? static_cast<char>(raw[at] | 0x20) : ' ';
          if (IsDecimalDigit(h)) {
            code = code * 16 + static_cast<uint32_t>(h - '0');
          } else if (h >= 'a' && h <= 'f' && at < raw.size()) {
            code = code * 16 + static_cast<uint32_t>(h - 'a' + 10);
          } else {
            return Error(absl::StrCat("string has a truncated \\", std::string(1, c), " escape"));
          }
        }
        if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
          return Error("string escape is not a Unicode scalar value");
        }
        AppendUtf8(code, &out);
        i += 2 + digits;
      } else if (c >= '0' && c <= '7') {
        uint32_t code = 0;
        size_t at = i + 1;
        for (; at < raw.size() && at < i + 4 && raw[at] >= '0' && raw[at] <= '7'; ++at) {
          code = code * 8 + static_cast<uint32_t>(raw[at] - '0');
        }
        AppendUtf8(code, &out);
        i = at;
      } else if (c == 'N') {
        return Error("string escape \\N{...} is not supported");
      } else if (static_cast<unsigned char>(c) >= 0x80) {
        // Jinja2 turns the letter into "\xe9" first; the backslash before it then escapes
        // that backslash.
        size_t pos = i + 1;
        const uint32_t code = DecodeUtf8(raw, &pos);
        absl::StrAppend(&out, "\\");
        if (code < 0x100) {
          absl::StrAppend(&out, "x", absl::Hex(code, absl::kZeroPad2));
        } else if (code < 0x10000) {
          absl::StrAppend(&out, "u", absl::Hex(code, absl::kZeroPad4));
        } else {
          absl::StrAppend(&out, "U", absl::Hex(code, absl::kZeroPad8));
        }
        i = pos;
      } else {
        out.push_back('\\');
        i += 1;
      }
    }
    return out;
  }

  const std::string owned_;
  const std::string_view text_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source) { return Lexer(source).Run(); }

}  // namespace tandem::jinja
