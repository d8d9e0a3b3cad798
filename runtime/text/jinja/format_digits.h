// Digits of numbers, which the % operator and format specifications share.
#pragma once

#include <string>

#include "runtime/text/jinja/value.h"

namespace tandem::jinja {

// Digits after the point at most.
inline constexpr int kMaxPrecision = 1000;

// The digits of the magnitude, without a sign.
std::string IntDigits(Int value, unsigned base, bool upper);

// %e, %f and %g of a number that is not negative; `alternate` keeps a point that %g drops.
std::string FloatDigits(double value, char type, int precision, bool alternate);

}  // namespace tandem::jinja
