// The % operator of strings.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/format_digits.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

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

absl::StatusOr<std::string> ConvertChar(const Value& value, const PercentSpec& spec) {
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

absl::StatusOr<std::string> ConvertInt(char type, const Value& value, const PercentSpec& spec) {
  const bool decimal = type == 'd' || type == 'i' || type == 'u';
  if (value.is_undefined()) return UndefinedError(value);
  if (!value.is_integral() && !(decimal && value.is(Kind::kFloat))) {
    return TypeError(absl::StrCat("%", std::string(1, type), " format: a number is required, not ",
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

absl::StatusOr<std::string> ConvertFloat(char type, const Value& value, const PercentSpec& spec) {
  if (value.is_undefined()) return UndefinedError(value);
  if (!value.is_number()) {
    return TypeError(absl::StrCat("must be real number, not ", std::string(TypeName(value))));
  }
  const double number = value.number();
  std::string digits =
      FloatDigits(std::abs(number), type, spec.precision < 0 ? 6 : spec.precision, spec.alternate);
  return PadNumber(SignOf(std::signbit(number), spec), std::move(digits), spec);
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
    case 'c':
      return ConvertChar(value, spec);
    case 'd':
    case 'i':
    case 'u':
    case 'x':
    case 'X':
    case 'o':
      return ConvertInt(type, value, spec);
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      return ConvertFloat(type, value, spec);
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

  // The value of "(KEY)" at the position, if there is one.
  absl::StatusOr<const Value*> NamedValue() {
    if (pos_ >= format_.size() || format_[pos_] != '(') return nullptr;
    if (!value_.is(Kind::kDict)) return TypeError("format requires a mapping");
    const size_t begin = ++pos_;
    for (int open = 1; pos_ < format_.size(); ++pos_) {
      if (format_[pos_] == '(') ++open;
      if (format_[pos_] == ')' && --open == 0) break;
    }
    if (pos_ >= format_.size()) return TypeError("incomplete format key");
    const Value* found = value_.dict().Find(format_.substr(begin, pos_ - begin));
    if (found == nullptr) return TypeError("format key is missing");
    used_mapping_ = true;
    ++pos_;
    return found;
  }

  void ReadFlags(PercentSpec* spec) {
    for (; pos_ < format_.size(); ++pos_) {
      const char c = format_[pos_];
      if (c == '-') {
        spec->left = true;
      } else if (c == '+') {
        spec->plus = true;
      } else if (c == ' ') {
        spec->space = true;
      } else if (c == '0') {
        spec->zero = true;
      } else if (c == '#') {
        spec->alternate = true;
      } else {
        break;
      }
    }
  }

  absl::StatusOr<std::string> Conversion() {
    JINJA_ASSIGN(const Value* const named, NamedValue());
    PercentSpec spec;
    ReadFlags(&spec);
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
    if (named != nullptr) return PercentConvert(type, *named, spec, heap_);
    JINJA_ASSIGN(const Value value, NextValue());
    return PercentConvert(type, value, spec, heap_);
  }

  const std::string_view format_;
  const Value& value_;
  const Heap& heap_;
  size_t pos_ = 0;
  size_t next_ = 0;
  bool used_mapping_ = false;
};

}  // namespace

absl::StatusOr<std::string> PercentFormat(std::string_view format, const Value& value,
                                          const Heap& heap) {
  return PercentFormatter(format, value, heap).Run();
}

}  // namespace tandem::jinja
