// The % operator and format specifications.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

constexpr int kMaxPrecision = 1000;

std::string IntDigits(Int value, unsigned base, bool upper) {
  unsigned __int128 rest =
      value < 0 ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  std::string digits;
  do {
    const auto digit = static_cast<unsigned>(rest % base);
    digits.push_back((upper ? "0123456789ABCDEF" : "0123456789abcdef")[digit]);
    rest /= base;
  } while (rest != 0);
  std::reverse(digits.begin(), digits.end());
  return digits;
}

// %e, %f and %g of a non-negative number; `alternate` keeps zeros that %g drops.
std::string FloatDigits(double value, char type, int precision, bool alternate) {
  const bool upper = type >= 'A' && type <= 'Z';
  const char lower = static_cast<char>(type | 0x20);
  if (std::isnan(value)) return upper ? "NAN" : "nan";
  if (std::isinf(value)) return upper ? "INF" : "inf";
  std::string out;
  if (lower == 'f') {
    out = FloatFixed(value, precision);
  } else {
    if (lower == 'g' && precision == 0) precision = 1;
    out.resize(static_cast<size_t>(precision) + 400);
    const auto format = lower == 'e' ? std::chars_format::scientific : std::chars_format::general;
    const auto end =
        std::to_chars(out.data(), out.data() + out.size(), value, format, precision).ptr;
    out.resize(static_cast<size_t>(end - out.data()));
  }
  if (alternate && out.find('.') == std::string::npos && out.find('e') == std::string::npos) {
    out += '.';
  }
  if (upper) {
    for (char& c : out) c = c == 'e' ? 'E' : c;
  }
  return out;
}

struct PercentSpec {
  bool left = false, plus = false, space = false, zero = false, alternate = false;
  int width = 0;
  int precision = -1;
};

// Pads digits to the width, zeros going between sign (and prefix) and digits.
std::string PadNumber(const std::string& sign, std::string digits, const PercentSpec& spec) {
  const size_t length = sign.size() + digits.size();
  const size_t width = static_cast<size_t>(spec.width);
  if (length >= width) return sign + digits;
  if (spec.left) return sign + digits + std::string(width - length, ' ');
  if (spec.zero) return sign + std::string(width - length, '0') + digits;
  return std::string(width - length, ' ') + sign + digits;
}

std::string SignOf(bool negative, const PercentSpec& spec) {
  return negative ? "-" : spec.plus ? "+" : spec.space ? " " : "";
}

std::string PadText(std::string text, const PercentSpec& spec) {
  if (spec.precision >= 0) text.resize(ByteOffset(text, static_cast<size_t>(spec.precision)));
  const size_t length = CodePointCount(text);
  const size_t width = static_cast<size_t>(spec.width);
  if (length >= width) return text;
  const std::string pad(width - length, ' ');
  return spec.left ? text + pad : pad + text;
}

absl::StatusOr<Int> FloatToInt(double value) {
  if (!std::isfinite(value)) return TypeError("cannot convert this float to an integer");
  if (std::abs(value) > 1e38) return TypeError("integer is too large");
  return static_cast<Int>(value);
}

absl::StatusOr<std::string> PercentConvert(char type, const Value& value, const PercentSpec& spec,
                                           const Heap& heap) {
  switch (type) {
    case 's': {
      JINJA_ASSIGN(std::string text, Str(value, heap));
      return PadText(std::move(text), spec);
    }
    case 'r':
    case 'a': {
      JINJA_ASSIGN(std::string text, Repr(value, heap));
      return PadText(std::move(text), spec);
    }
    case 'c': {
      std::string text;
      if (value.is_string() && CodePointCount(value.string()) == 1) {
        text = value.string();
      } else if (value.is_integral() && value.int_value() >= 0 && value.int_value() < 0x110000) {
        AppendUtf8(static_cast<char32_t>(value.int_value()), &text);
      } else {
        return TypeError("%c requires int or char");
      }
      return PadText(std::move(text), spec);
    }
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o': {
      const bool decimal = type == 'd' || type == 'i' || type == 'u';
      if (value.is_undefined()) return UndefinedError(value);
      if (!value.is_integral() && !(decimal && value.is(Kind::kFloat))) {
        return TypeError(absl::StrCat("%", std::string(1, type),
                                      " format: a number is required, not ",
                                      std::string(TypeName(value))));
      }
      Int number = value.int_value();
      if (value.is(Kind::kFloat)) {
        JINJA_ASSIGN(number, FloatToInt(value.float_value()));
      }
      std::string digits = IntDigits(number, decimal ? 10 : type == 'o' ? 8 : 16, type == 'X');
      if (spec.precision > 0 && digits.size() < static_cast<size_t>(spec.precision)) {
        digits.insert(0, static_cast<size_t>(spec.precision) - digits.size(), '0');
      }
      std::string sign = SignOf(number < 0, spec);
      if (spec.alternate && !decimal) sign += type == 'o' ? "0o" : type == 'x' ? "0x" : "0X";
      return PadNumber(sign, std::move(digits), spec);
    }
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G': {
      if (value.is_undefined()) return UndefinedError(value);
      if (!value.is_number()) {
        return TypeError(absl::StrCat("must be real number, not ", std::string(TypeName(value))));
      }
      const double number = value.number();
      PercentSpec padded = spec;
      std::string digits = FloatDigits(std::abs(number), type,
                                       spec.precision < 0 ? 6 : spec.precision, spec.alternate);
      return PadNumber(SignOf(std::signbit(number), spec), std::move(digits), padded);
    }
    default:
      return TypeError(absl::StrCat("unsupported format character '", std::string(1, type), "'"));
  }
}

class PercentFormatter {
 public:
  PercentFormatter(std::string_view format, const Value& value, const Heap& heap)
      : format_(format), value_(value), heap_(heap) {}

  absl::StatusOr<std::string> Run() {
    std::string out;
    while (pos_ < format_.size()) {
      const char c = format_[pos_++];
      if (c != '%') {
        out.push_back(c);
        continue;
      }
      JINJA_ASSIGN(std::string piece, Conversion());
      out += piece;
      JINJA_RETURN_IF_ERROR(heap_.Check(out.size()));
    }
    if (!used_mapping_ && !value_.is(Kind::kDict) && !value_.is_undefined()) {
      const size_t given = value_.is(Kind::kTuple) ? value_.items().size() : 1;
      if (next_ < given && !(value_.is_sequence() && value_.is(Kind::kList)) &&
          !value_.is(Kind::kRange)) {
        return TypeError("not all arguments converted during string formatting");
      }
    }
    return out;
  }

 private:
  absl::StatusOr<Value> NextValue() {
    if (value_.is(Kind::kTuple)) {
      if (next_ < value_.items().size()) return value_.items()[next_++];
    } else if (next_ == 0) {
      ++next_;
      return value_;
    }
    return TypeError("not enough arguments for format string");
  }

  absl::StatusOr<int> Number() {
    if (pos_ < format_.size() && format_[pos_] == '*') {
      ++pos_;
      JINJA_ASSIGN(Value star, NextValue());
      if (!star.is_integral()) return TypeError("* wants int");
      if (star.int_value() > 100000 || star.int_value() < -100000) {
        return TypeError("width or precision is too large");
      }
      return static_cast<int>(star.int_value());
    }
    int number = 0;
    for (; pos_ < format_.size() && format_[pos_] >= '0' && format_[pos_] <= '9'; ++pos_) {
      number = number * 10 + (format_[pos_] - '0');
      if (number > 10'000'000) return TypeError("width or precision is too large");
    }
    return number;
  }

  absl::StatusOr<std::string> Conversion() {
    Value value;
    bool has_value = false;
    if (pos_ < format_.size() && format_[pos_] == '(') {
      if (!value_.is(Kind::kDict)) return TypeError("format requires a mapping");
      const size_t begin = ++pos_;
      for (int open = 1; pos_ < format_.size(); ++pos_) {
        if (format_[pos_] == '(') ++open;
        if (format_[pos_] == ')' && --open == 0) break;
      }
      if (pos_ >= format_.size()) return TypeError("incomplete format key");
      const Value* found = value_.dict().Find(format_.substr(begin, pos_ - begin));
      if (found == nullptr) return TypeError("format key is missing");
      value = *found;
      has_value = used_mapping_ = true;
      ++pos_;
    }
    PercentSpec spec;
    for (; pos_ < format_.size(); ++pos_) {
      const char c = format_[pos_];
      if (c == '-') {
        spec.left = true;
      } else if (c == '+') {
        spec.plus = true;
      } else if (c == ' ') {
        spec.space = true;
      } else if (c == '0') {
        spec.zero = true;
      } else if (c == '#') {
        spec.alternate = true;
      } else {
        break;
      }
    }
    JINJA_ASSIGN(spec.width, Number());
    if (spec.width < 0) {
      spec.left = true;
      spec.width = -spec.width;
    }
    JINJA_RETURN_IF_ERROR(heap_.Check(static_cast<size_t>(spec.width)));
    if (pos_ < format_.size() && format_[pos_] == '.') {
      ++pos_;
      JINJA_ASSIGN(spec.precision, Number());
      spec.precision = std::clamp(spec.precision, 0, kMaxPrecision);
    }
    while (pos_ < format_.size() &&
           (format_[pos_] == 'l' || format_[pos_] == 'h' || format_[pos_] == 'L')) {
      ++pos_;
    }
    if (pos_ >= format_.size()) return TypeError("incomplete format");
    const char type = format_[pos_++];
    if (type == '%') return std::string("%");
    if (!has_value) {
      JINJA_ASSIGN(value, NextValue());
    }
    return PercentConvert(type, value, spec, heap_);
  }

  const std::string_view format_;
  const Value& value_;
  const Heap& heap_;
  size_t pos_ = 0;
  size_t next_ = 0;
  bool used_mapping_ = false;
};

// --- format(value, spec) ---

struct FormatSpec {
  std::string fill = " ";
  char align = 0;
  char sign = '-';
  bool alternate = false;
  bool implied_align = false;  // "=" that follows from a 0 before the width
  int width = 0;
  char grouping = 0;
  int precision = -1;
  char type = 0;
};

absl::StatusOr<FormatSpec> ParseSpec(std::string_view spec) {
  FormatSpec out;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '=' || c == '^'; };
  size_t pos = 0;
  if (!spec.empty()) {
    size_t behind = 0;
    DecodeUtf8(spec, &behind);
    if (behind < spec.size() && is_align(spec[behind])) {
      out.fill = std::string(spec.substr(0, behind));
      out.align = spec[behind];
      pos = behind + 1;
    } else if (is_align(spec[0])) {
      out.align = spec[0];
      pos = 1;
    }
  }
  const auto at = [&](char c) { return pos < spec.size() && spec[pos] == c && (++pos, true); };
  const auto number = [&](int* value) {
    bool any = false;
    for (*value = 0; pos < spec.size() && spec[pos] >= '0' && spec[pos] <= '9'; ++pos) {
      *value = std::min(*value * 10 + (spec[pos] - '0'), 100'000'000);
      any = true;
    }
    return any;
  };
  if (pos < spec.size() && (spec[pos] == '+' || spec[pos] == '-' || spec[pos] == ' ')) {
    out.sign = spec[pos++];
  }
  at('z');
  out.alternate = at('#');
  if (at('0')) {
    if (out.align == 0) {
      out.fill = "0";
      out.align = '=';
      out.implied_align = true;
    }
  }
  number(&out.width);
  if (pos < spec.size() && (spec[pos] == ',' || spec[pos] == '_')) out.grouping = spec[pos++];
  if (at('.') && !number(&out.precision)) return TypeError("format specifier missing precision");
  if (pos < spec.size()) out.type = spec[pos++];
  if (pos != spec.size()) return TypeError("invalid format specifier");
  return out;
}

std::string Repeat(std::string_view text, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += text;
  return out;
}

absl::StatusOr<std::string> Align(const FormatSpec& spec, const std::string& sign,
                                  const std::string& body, char default_align, const Heap& heap) {
  const size_t length = CodePointCount(sign) + CodePointCount(body);
  const size_t width = static_cast<size_t>(spec.width);
  if (length >= width) return sign + body;
  const size_t pad = width - length;
  JINJA_RETURN_IF_ERROR(heap.Check(pad * spec.fill.size()));
  switch (spec.align == 0 ? default_align : spec.align) {
    case '<':
      return sign + body + Repeat(spec.fill, pad);
    case '^':
      return Repeat(spec.fill, pad / 2) + sign + body + Repeat(spec.fill, pad - pad / 2);
    case '=':
      return sign + Repeat(spec.fill, pad) + body;
    default:
      return Repeat(spec.fill, pad) + sign + body;
  }
}

// Thousands in the whole part; zero padding to `least` digits takes part in it.
std::string Group(std::string digits, char separator, size_t every, size_t least) {
  const size_t whole_end =
      std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  const std::string rest = digits.substr(whole_end);
  std::string whole = digits.substr(0, whole_end);
  std::string out;
  size_t count = 0;
  size_t length = 0;
  for (size_t i = whole.size(); i > 0 || length + rest.size() < least;) {
    if (count > 0 && count % every == 0) {
      out.push_back(separator);
      ++length;
      if (i == 0 && length + rest.size() >= least) {
        // A separator may not stand first: one more zero goes before it.
        out.push_back('0');
        break;
      }
    }
    out.push_back(i > 0 ? whole[--i] : '0');
    ++count;
    ++length;
  }
  std::reverse(out.begin(), out.end());
  return out + rest;
}

absl::StatusOr<std::string> FormatInt(const FormatSpec& spec, Int value, const Heap& heap) {
  if (spec.precision >= 0) return TypeError("precision not allowed in integer format specifier");
  unsigned base = 10;
  std::string_view prefix;
  switch (spec.type) {
    case 0:
    case 'd':
    case 'n':
      break;
    case 'x':
    case 'X':
      base = 16;
      prefix = spec.type == 'x' ? "0x" : "0X";
      break;
    case 'o':
      base = 8;
      prefix = "0o";
      break;
    case 'b':
      base = 2;
      prefix = "0b";
      break;
    case 'c': {
      if (value < 0 || value > 0x10FFFF) return TypeError("%c arg not in range(0x110000)");
      std::string text;
      AppendUtf8(static_cast<char32_t>(value), &text);
      return Align(spec, "", text, '<', heap);
    }
    default:
      return TypeError(absl::StrCat("unknown format code '", std::string(1, spec.type),
                                    "' for object of type 'int'"));
  }
  if (spec.grouping == ',' && base != 10) return TypeError("cannot specify ',' with this format");
  std::string sign = value < 0 ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  if (spec.alternate) sign += prefix;
  std::string digits = IntDigits(value, base, spec.type == 'X');
  if (spec.grouping != 0) {
    const bool zeros = spec.fill == "0" && spec.align == '=';
    JINJA_RETURN_IF_ERROR(heap.Check(static_cast<size_t>(spec.width)));
    const size_t width = static_cast<size_t>(spec.width);
    digits = Group(std::move(digits), spec.grouping, base == 10 ? 3 : 4,
                   zeros && width > sign.size() ? width - sign.size() : 0);
  }
  return Align(spec, sign, digits, '>', heap);
}

absl::StatusOr<std::string> FormatFloat(const FormatSpec& spec, double value, const Heap& heap) {
  const double magnitude = std::abs(value);
  const int precision = std::min(spec.precision, kMaxPrecision);
  std::string digits;
  switch (spec.type) {
    case 0:
      if (precision < 0) {
        digits = FloatRepr(magnitude);
      } else {
        digits = FloatDigits(magnitude, 'g', precision, spec.alternate);
        // Without a type there is always a digit behind the point, unless in exponents.
        if (digits.find_first_of(".en") == std::string::npos) {
          digits = static_cast<int>(digits.size()) < std::max(precision, 1)
                       ? digits + ".0"
                       : FloatDigits(magnitude, 'e', std::max(precision, 1) - 1, false);
          if (digits.find('e') != std::string::npos) {
            // trailing zeros of the mantissa go
            const size_t e = digits.find('e');
            std::string mantissa = digits.substr(0, e);
            if (mantissa.find('.') != std::string::npos) {
              mantissa.erase(mantissa.find_last_not_of('0') + 1);
              if (mantissa.back() == '.') mantissa.pop_back();
            }
            digits = mantissa + digits.substr(e);
          }
        }
      }
      break;
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      digits = FloatDigits(magnitude, spec.type, precision < 0 ? 6 : precision, spec.alternate);
      break;
    case 'n':
      digits = FloatDigits(magnitude, 'g', precision < 0 ? 6 : precision, spec.alternate);
      break;
    case '%':
      digits =
          FloatDigits(magnitude * 100, 'f', precision < 0 ? 6 : precision, spec.alternate) + "%";
      break;
    default:
      return TypeError(absl::StrCat("unknown format code '", std::string(1, spec.type),
                                    "' for object of type 'float'"));
  }
  const std::string sign = std::signbit(value) ? "-"
                           : spec.sign == '-'  ? ""
                                               : std::string(1, spec.sign);
  if (spec.grouping != 0 && std::isfinite(value)) {
    JINJA_RETURN_IF_ERROR(heap.Check(static_cast<size_t>(spec.width)));
    const bool zeros = spec.fill == "0" && spec.align == '=';
    const size_t width = static_cast<size_t>(spec.width);
    digits = Group(std::move(digits), spec.grouping, 3,
                   zeros && width > sign.size() ? width - sign.size() : 0);
  }
  return Align(spec, sign, digits, '>', heap);
}

}  // namespace

absl::StatusOr<std::string> PercentFormat(std::string_view format, const Value& value,
                                          const Heap& heap) {
  return PercentFormatter(format, value, heap).Run();
}

absl::StatusOr<std::string> FormatWithSpec(const Value& value, std::string_view text,
                                           const Heap& heap) {
  if (text.empty()) return Str(value, heap);
  JINJA_ASSIGN(FormatSpec spec, ParseSpec(text));
  if (value.is_string()) {
    if (spec.implied_align) spec.align = '<';
    if ((spec.type != 0 && spec.type != 's') || spec.align == '=' || spec.sign != '-' ||
        spec.alternate || spec.grouping != 0) {
      return TypeError("invalid format specification for object of type 'str'");
    }
    std::string body = value.string();
    if (spec.precision >= 0) body.resize(ByteOffset(body, static_cast<size_t>(spec.precision)));
    return Align(spec, "", body, '<', heap);
  }
  if (value.is(Kind::kFloat)) return FormatFloat(spec, value.float_value(), heap);
  if (value.is_integral()) {
    const std::string_view float_types = "eEfFgG%";
    if (spec.type != 0 && float_types.find(spec.type) != std::string_view::npos) {
      return FormatFloat(spec, value.number(), heap);
    }
    return FormatInt(spec, value.int_value(), heap);
  }
  return TypeError(absl::StrCat("unsupported format string for object of type '",
                                std::string(TypeName(value)), "'"));
}

}  // namespace tandem::jinja
