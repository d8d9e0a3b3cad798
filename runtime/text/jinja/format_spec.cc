// format(value, spec): format specifications.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/format_digits.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

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
