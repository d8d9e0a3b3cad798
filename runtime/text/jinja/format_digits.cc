#include "runtime/text/jinja/format_digits.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "runtime/text/jinja/format.h"

namespace tandem::jinja {

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

}  // namespace tandem::jinja
