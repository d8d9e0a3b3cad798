// Filters that make numbers, or text of one.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/filters.h"
#include "runtime/text/jinja/format.h"
#include "runtime/text/jinja/methods.h"
#include "runtime/text/jinja/unicode.h"

namespace tandem::jinja {
namespace {

using Result = absl::StatusOr<Value>;

bool ParseFloatText(std::string_view raw, double* value) {
  std::string text(StripLeft(StripRight(raw)));
  text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
  if (raw.find("__") != std::string_view::npos || text.empty()) return false;
  if (raw.front() == '_' || raw.back() == '_') return false;
  const char* begin = text.data();
  if (*begin == '+') ++begin;
  if (begin != text.data() && *begin == '-') return false;
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), *value);
  if (end != text.data() + text.size() || text.find('(') != std::string::npos) return false;
  if (error == std::errc::result_out_of_range) {
    const bool tiny = text.find("e-") != std::string::npos || text.find("E-") != std::string::npos;
    *value = tiny ? 0.0 : std::numeric_limits<double>::infinity();
    if (*begin == '-') *value = -*value;
    return true;
  }
  return error == std::errc();
}

// int(text, base); false where Python raises ValueError.
bool ParseIntText(std::string_view raw, int base, Int* value) {
  std::string_view text = StripLeft(StripRight(raw));
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  if (text.size() > 2 && text[0] == '0') {
    const char kind = static_cast<char>(text[1] | 0x20);
    const int implied = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 0;
    if (implied != 0 && (base == implied || base == 0)) {
      base = implied;
      text.remove_prefix(2);
      if (text[0] == '_') text.remove_prefix(1);
    }
  }
  if (base == 0) {
    base = 10;
    if (text.size() > 1 && text[0] == '0' &&
        text.find_first_not_of("0_") != std::string_view::npos) {
      return false;
    }
  }
  if (text.empty()) return false;
  Int out = 0;
  bool after_digit = false;
  for (char c : text) {
    if (c == '_' && after_digit) {
      after_digit = false;
      continue;
    }
    const char lower = static_cast<char>(c | 0x20);
    const int digit = c >= '0' && c <= '9'           ? c - '0'
                      : lower >= 'a' && lower <= 'z' ? lower - 'a' + 10
                                                     : 99;
    if (digit >= base || out > (Int{1} << 118)) return false;
    out = out * base + digit;
    after_digit = true;
  }
  if (!after_digit) return false;
  *value = negative ? -out : out;
  return true;
}

bool FloatToInteger(double value, Int* out) {
  if (!std::isfinite(value) || std::abs(value) > 1e38) return false;
  *out = static_cast<Int>(value);
  return true;
}

Result ToInt(Interpreter&, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("int", args, {"default", "base"}, 0));
  const Value fallback = bound[0] != nullptr ? *bound[0] : Value::Integer(0);
  Int base = 10;
  if (bound[1] != nullptr) {
    JINJA_ASSIGN(base, IntArgument(*bound[1]));
  }
  Int value = 0;
  if (input.is_undefined()) return UndefinedError(input);
  if (input.is_integral()) return Value::Integer(input.int_value());
  if (input.is(Kind::kFloat)) {
    return FloatToInteger(input.float_value(), &value) ? Value::Integer(value) : fallback;
  }
  if (!input.is_string()) return fallback;
  if ((base == 0 || (base >= 2 && base <= 36)) &&
      ParseIntText(input.string(), static_cast<int>(base), &value)) {
    return Value::Integer(value);
  }
  double number = 0;
  if (ParseFloatText(input.string(), &number) && FloatToInteger(number, &value)) {
    return Value::Integer(value);
  }
  return fallback;
}

Result ToFloat(Interpreter&, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("float", args, {"default"}, 0));
  if (input.is_undefined()) return UndefinedError(input);
  if (input.is_number()) return Value::Float(input.number());
  double value = 0;
  if (input.is_string() && ParseFloatText(input.string(), &value)) return Value::Float(value);
  return bound[0] != nullptr ? *bound[0] : Value::Float(0);
}

Result Abs(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_RETURN_IF_ERROR(BindArguments("abs", args, {}, 0).status());
  if (input.is_undefined()) return UndefinedError(input);
  if (input.is(Kind::kFloat)) return Value::Float(std::abs(input.float_value()));
  if (!input.is_integral()) return TypeError("needs a number");
  if (input.int_value() >= 0) return Value::Integer(input.int_value());
  return in.Binary("-", Value::Integer(0), input);
}

Result Round(Interpreter&, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("round", args, {"precision", "method"}, 0));
  Int precision = 0;
  if (bound[0] != nullptr) {
    JINJA_ASSIGN(precision, IntArgument(*bound[0]));
  }
  std::string method = "common";
  if (bound[1] != nullptr) {
    JINJA_ASSIGN(method, TextOf(*bound[1]));
  }
  if (method != "common" && method != "ceil" && method != "floor") {
    return TypeError("method must be common, ceil or floor");
  }
  if (input.is_undefined()) return UndefinedError(input);
  if (!input.is_number()) return TypeError("needs a number");
  if (method != "common") {
    if (precision > 300 || precision < -300) return TypeError("precision is too large");
    const double scale = std::pow(10.0, static_cast<double>(precision));
    const double scaled = input.number() * scale;
    if (!std::isfinite(scaled)) return TypeError("cannot round this number");
    return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
  }
  if (input.is_integral()) {
    if (precision >= 0) return Value::Integer(input.int_value());
    if (precision < -37) return Value::Integer(0);
    Int scale = 1;
    for (Int i = precision; i < 0; ++i) scale *= 10;
    const Int value = input.int_value();
    const Int low = (value / scale - (value % scale < 0 ? 1 : 0)) * scale;
    const Int rest = value - low;
    const bool up = rest > scale - rest || (rest == scale - rest && (low / scale) % 2 != 0);
    return Value::Integer(up ? low + scale : low);
  }
  const double value = input.float_value();
  if (precision > 308 || !std::isfinite(value)) return Value::Float(value);
  if (precision >= 0) {
    // Correctly rounded through decimal digits, as Python does.
    const std::string text = FloatFixed(value, static_cast<int>(precision));
    double rounded = value;
    std::from_chars(text.data(), text.data() + text.size(), rounded);
    return Value::Float(rounded);
  }
  if (precision < -308) return Value::Float(std::copysign(0.0, value));
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return Value::Float(std::nearbyint(value / scale) * scale);
}

Result FileSizeFormat(Interpreter& in, const Value& input, const Arguments& args) {
  JINJA_ASSIGN(const auto bound, BindArguments("filesizeformat", args, {"binary"}, 0));
  const bool binary = bound[0] != nullptr && Truth(*bound[0]);
  double bytes = 0;
  if (input.is_number()) {
    bytes = input.number();
  } else if (!input.is_string() || !ParseFloatText(input.string(), &bytes)) {
    return TypeError("needs a number");
  }
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return in.String("1 Byte");
  if (bytes < base) {
    return in.String(absl::StrCat(static_cast<int64_t>(std::max(bytes, -1e18)), " Bytes"));
  }
  constexpr std::string_view kPrefixes = "kMGTPEZY";
  double unit = base;
  for (size_t i = 0; i < kPrefixes.size(); ++i) {
    unit *= base;
    if (bytes >= unit && i + 1 < kPrefixes.size()) continue;
    const char prefix = binary && i == 0 ? 'K' : kPrefixes[i];
    return in.String(absl::StrCat(FloatFixed(base * bytes / unit, 1), " ", std::string(1, prefix),
                                  binary ? "iB" : "B"));
  }
  return in.String("");
}

constexpr Filter kFilters[] = {
    {"abs", Abs},     {"filesizeformat", FileSizeFormat}, {"float", ToFloat}, {"int", ToInt},
    {"round", Round},
};

}  // namespace

const Filter* FindNumberFilter(std::string_view name) {
  for (const Filter& filter : kFilters) {
    if (filter.name == name) return &filter;
  }
  return nullptr;
}

}  // namespace tandem::jinja
