// exp and log whose bits are the same on every machine: doubles, plain
// additions and multiplications in a written order, no fused operations (the
// build has -ffp-contract=off). The C library's may not be used on the path of a
// sampled token: it picks a variant by CPU (with or without fused multiply-add)
// and rounds differently from one to the next, and draws would follow.
//
// Both are within 2^-50 relative of the true value (tested), in forms that a
// compiler can vectorize.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace tandem::engine {

// e^x for -700 <= x <= 700; outside, the value at the nearer end.
inline double ExactExp(double x) {
  x = x > -700.0 ? x : -700.0;
  x = x < 700.0 ? x : 700.0;
  // x = k ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^52 rounds to an integer
  // and leaves it in the low bits.
  constexpr double kShifter = 0x1.8p52;
  constexpr double kLog2E = 0x1.71547652b82fep0;
  constexpr double kLn2High = 0x1.62e42fefa3800p-1;  // 43 bits: k times it is exact
  constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  const double shifted = x * kLog2E + kShifter;
  const double k = shifted - kShifter;
  const double r = (x - k * kLn2High) - k * kLn2Low;
  // Taylor's series to r^13 / 13!; the next term is under 2^-57.
  double p = 1.0 / 6227020800.0;
  p = p * r + 1.0 / 479001600.0;
  p = p * r + 1.0 / 39916800.0;
  p = p * r + 1.0 / 3628800.0;
  p = p * r + 1.0 / 362880.0;
  p = p * r + 1.0 / 40320.0;
  p = p * r + 1.0 / 5040.0;
  p = p * r + 1.0 / 720.0;
  p = p * r + 1.0 / 120.0;
  p = p * r + 1.0 / 24.0;
  p = p * r + 1.0 / 6.0;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  // 2^k: k sits in the low bits of `shifted`; what is above is shifted out.
  const uint64_t scale = (std::bit_cast<uint64_t>(shifted) << 52) + (uint64_t{1023} << 52);
  return p * std::bit_cast<double>(scale);
}

// Natural logarithm of a positive, normal, finite x; minus infinity at 0.
inline double ExactLog(double x) {
  if (x == 0.0) return -std::numeric_limits<double>::infinity();
  // x = 2^k m with m in [sqrt(1/2), sqrt(2)).
  uint64_t bits = std::bit_cast<uint64_t>(x);
  auto k = static_cast<int64_t>(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffff) | (uint64_t{1023} << 52);
  double m = std::bit_cast<double>(bits);
  if (m > 0x1.6a09e667f3bcdp0) {
    m *= 0.5;
    ++k;
  }
  // log m = 2 atanh s, s = (m - 1) / (m + 1), |s| < 0.1716; the first term left
  // out is under 2^-58 of the first.
  const double s = (m - 1.0) / (m + 1.0);
  const double s2 = s * s;
  double p = 1.0 / 23.0;
  for (int n = 21; n >= 1; n -= 2) p = p * s2 + 1.0 / n;
  constexpr double kLn2High = 0x1.62e42fefa3800p-1;
  constexpr double kLn2Low = 0x1.ef35793c76730p-45;
  const auto kd = static_cast<double>(k);
  return kd * kLn2High + (2.0 * s * p + kd * kLn2Low);
}

}  // namespace tandem::engine
