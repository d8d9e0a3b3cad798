// exp and log whose bits are the same on every machine and GPU: doubles, plain additions and
// multiplications in the order that is written here, no fused operations (the build has
// -ffp-contract=off, for GPUs -fmad=false). The C library's functions must not be used when a token
// is sampled: the library chooses a variant by CPU (with or without fused multiply-add), variants
// round differently, and so tokens would differ.
//
// Both are within 2^-50 relative of the true value (tested).
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace tandem::kernels {

// 2^(j / 64), correctly rounded.
inline constexpr double kExp2Table[64] = {
    0x1p0,
    0x1.02c9a3e778061p0,
    0x1.059b0d3158574p0,
    0x1.0874518759bc8p0,
    0x1.0b5586cf9890fp0,
    0x1.0e3ec32d3d1a2p0,
    0x1.11301d0125b51p0,
    0x1.1429aaea92de0p0,
    0x1.172b83c7d517bp0,
    0x1.1a35beb6fcb75p0,
    0x1.1d4873168b9aap0,
    0x1.2063b88628cd6p0,
    0x1.2387a6e756238p0,
    0x1.26b4565e27cddp0,
    0x1.29e9df51fdee1p0,
    0x1.2d285a6e4030bp0,
    0x1.306fe0a31b715p0,
    0x1.33c08b26416ffp0,
    0x1.371a7373aa9cbp0,
    0x1.3a7db34e59ff7p0,
    0x1.3dea64c123422p0,
    0x1.4160a21f72e2ap0,
    0x1.44e086061892dp0,
    0x1.486a2b5c13cd0p0,
    0x1.4bfdad5362a27p0,
    0x1.4f9b2769d2ca7p0,
    0x1.5342b569d4f82p0,
    0x1.56f4736b527dap0,
    0x1.5ab07dd485429p0,
    0x1.5e76f15ad2148p0,
    0x1.6247eb03a5585p0,
    0x1.6623882552225p0,
    0x1.6a09e667f3bcdp0,
    0x1.6dfb23c651a2fp0,
    0x1.71f75e8ec5f74p0,
    0x1.75feb564267c9p0,
    0x1.7a11473eb0187p0,
    0x1.7e2f336cf4e62p0,
    0x1.82589994cce13p0,
    0x1.868d99b4492edp0,
    0x1.8ace5422aa0dbp0,
    0x1.8f1ae99157736p0,
    0x1.93737b0cdc5e5p0,
    0x1.97d829fde4e50p0,
    0x1.9c49182a3f090p0,
    0x1.a0c667b5de565p0,
    0x1.a5503b23e255dp0,
    0x1.a9e6b5579fdbfp0,
    0x1.ae89f995ad3adp0,
    0x1.b33a2b84f15fbp0,
    0x1.b7f76f2fb5e47p0,
    0x1.bcc1e904bc1d2p0,
    0x1.c199bdd85529cp0,
    0x1.c67f12e57d14bp0,
    0x1.cb720dcef9069p0,
    0x1.d072d4a07897cp0,
    0x1.d5818dcfba487p0,
    0x1.da9e603db3285p0,
    0x1.dfc97337b9b5fp0,
    0x1.e502ee78b3ff6p0,
    0x1.ea4afa2a490dap0,
    0x1.efa1bee615a27p0,
    0x1.f50765b6e4540p0,
    0x1.fa7c1819e90d8p0,
};

// e^x for -700 <= x <= 700; outside, the value at the nearer end. GPU kernels pass their own copy
// of the table.
constexpr double ExactExp(double x, const double* exp2_table = kExp2Table) {
  x = x > -700.0 ? x : -700.0;
  x = x < 700.0 ? x : 700.0;
  // x = k ln 2 / 64 + r with |r| <= ln 2 / 128. Adding 1.5 * 2^52 rounds to an
  // integer and leaves it in the low bits.
  constexpr double kShifter = 0x1.8p52;
  constexpr double kLog2E64 = 0x1.71547652b82fep6;
  constexpr double kLn2Over64High = 0x1.62e42fef80000p-7;  // 34 bits: k times it is exact
  constexpr double kLn2Over64Low = 0x1.1cf79abc9e3b4p-42;
  const double shifted = x * kLog2E64 + kShifter;
  const double k = shifted - kShifter;
  const double r = (x - k * kLn2Over64High) - k * kLn2Over64Low;
  // Taylor's series to r^5 / 5!; the next term is under 2^-54. Halves side by
  // side: the latency of one chain would cost more than the additions.
  const double r2 = r * r;
  const double p =
      (1.0 + r) + r2 * ((0.5 + r * (1.0 / 6.0)) + r2 * (1.0 / 24.0 + r * (1.0 / 120.0)));
  // 2^(k / 64): the table for k mod 64, the rest into the exponent's bits. What
  // the shifter left above is shifted out.
  const uint64_t bits = std::bit_cast<uint64_t>(shifted);
  const uint64_t scale = std::bit_cast<uint64_t>(exp2_table[bits & 63]) + ((bits >> 6) << 52);
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

}  // namespace tandem::kernels
