// Scalar arithmetic that every backend repeats bit for bit: conversions, exp,
// sine and cosine from fused multiply-adds alone. libm's own functions pick an
// implementation by CPU, so their last bits may differ between hosts.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace tandem::kernels {

constexpr float Bf16ToFloat(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Rounds to nearest even; NaN stays NaN. constexpr, so that GPU code can call it.
constexpr uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// In integers, since not every compiler has a 16-bit float for every target.
inline float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) {  // a NaN becomes a quiet one, as the hardware makes it
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | quiet | mantissa << 13);
  }
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  // Subnormal: mantissa * 2^-24, exact.
  const float value = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

// Rounds to nearest even; too large becomes infinity.
inline uint16_t FloatToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Subnormal: adding 2^-1 leaves the rounded multiple of 2^-24 in the lowest bits.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// Floats of 8 bits with 4 bits of exponent (of bias 7) and 3 of mantissa; up to 448, no infinity.
inline float E4m3ToFloat(uint8_t bits) {
  if ((bits & 0x7fu) == 0x7fu) return std::bit_cast<float>(0x7fc00000);
  // In place, the exponent is 120 too small, subnormals among them.
  const uint32_t moved = (bits & 0x80u) << 24 | (bits & 0x7fu) << 20;
  return std::bit_cast<float>(moved) * 0x1p120f;
}

// Rounds to nearest even; too large becomes 448, NaN stays NaN.
inline uint8_t FloatToE4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;  // 448
  if (magnitude < 0x3c800000u) {
    // Subnormal: adding 2^14 leaves the rounded multiple of 2^-9 in the lowest bits.
    const float sum = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return static_cast<uint8_t>(sign | ((rounded - 0x3c000000u) >> 20));
}

inline float FlushDenormal(float value) {
  return std::fabs(value) < 0x1p-126f ? std::copysign(0.0f, value) : value;
}

// a * b + c, rounded once; denormal operands and results count as zeros, as the
// bfloat16 dot-product instructions have them. A result is denormal when its
// magnitude is below 2^-126 after rounding to 24 bits.
inline float MulAddFlushed(float a, float b, float c) {
  a = FlushDenormal(a);
  b = FlushDenormal(b);
  c = FlushDenormal(c);
  const float result = std::fma(a, b, c);
  if (!(std::fabs(result) <= 0x1p-126f) || result == 0) return result;
  // Too small for 24 bits: round it 2^64 times larger. The larger factor is at
  // least 2^-126 and the product at most about 2^-125, so the smaller can grow.
  float& small = std::fabs(a) < std::fabs(b) ? a : b;
  small *= 0x1p64f;
  const float scaled = std::fma(a, b, c * 0x1p64f);
  return std::fabs(scaled) < 0x1p-62f ? std::copysign(0.0f, scaled) : scaled * 0x1p-64f;
}

// Values as integer codes, symmetric by their largest magnitude: scale is that
// over the largest code, inverse its reciprocal. Both are 0 below 2^-100, where
// the codes are 0; the scale is NaN where a value is not finite.
struct CodeScale {
  float scale = 0;
  float inverse = 0;
};

// most: the bits of the largest magnitude; NaN counts as larger than infinity.
inline CodeScale MakeCodeScale(int32_t most, float largest_code) {
  if (most >= 0x7f800000) return {std::bit_cast<float>(0x7fc00000), 0};
  const float largest = std::bit_cast<float>(most);
  if (largest < 0x1p-100f) return {};
  return {largest / largest_code, largest_code / largest};
}

// Activations are quantized to 8 bits.
using ActivationScale = CodeScale;
inline ActivationScale MakeActivationScale(uint32_t most) {
  return MakeCodeScale(static_cast<int32_t>(most), 127.0f);
}

// Nearest, ties to even; within -127..127, since inverse is off by 2^-24 at most.
inline int8_t QuantizeActivation(float value, float inverse) {
  return static_cast<int8_t>(std::nearbyintf(value * inverse));
}

inline int32_t MagnitudeBits(float value) { return std::bit_cast<int32_t>(value) & 0x7fffffff; }

// To nearest, ties to even; NaN as minus infinity.
inline int32_t ToCode(float value, float inverse, float largest_code) {
  float x = value * inverse;
  x = x > -largest_code ? x : -largest_code;
  x = x < largest_code ? x : largest_code;
  return static_cast<int32_t>(std::nearbyintf(x));
}

// exp(x) = 2^n * p(r), x = n ln 2 + r, |r| <= ln 2 / 2; p is the Taylor series to
// degree 7 (remainder below 2^-27 of the result). x is clamped to
// [kExpMin, 88]; below, the result is 0, so that masked scores vanish.
inline constexpr float kExpMin = -87.0f;
inline constexpr float kExpMax = 88.0f;
inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2High = 0.693145751953125f;  // 16 bits: n * kLn2High is exact
inline constexpr float kLn2Low = 1.42860677838325500488e-06f;
inline constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
inline constexpr float kExpCoefficients[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                             1.0f / 6,    0.5f,       1.0f,       1.0f};

inline float ExpF32(float x) {
  if (x < kExpMin) return 0.0f;
  const float clamped = x > kExpMax ? kExpMax : x;
  const float shifted = std::fma(clamped, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;
  float r = std::fma(-n, kLn2High, clamped);
  r = std::fma(-n, kLn2Low, r);
  float p = kExpCoefficients[0];
  for (int i = 1; i < 8; ++i) p = std::fma(p, r, kExpCoefficients[i]);
  const int32_t exponent = static_cast<int32_t>(n);
  return p * std::bit_cast<float>((exponent + 127) << 23);
}

// Sine and cosine of a finite fp32 angle below 2^30, correct to fp32 rounding:
// reduced in double by multiples of pi/2 (pi/2 in three parts), then Taylor.
inline void SinCosF32(float angle, float& sine, float& cosine) {
  constexpr double kTwoOverPi = 0.63661977236758134308;
  constexpr double kPart1 = 1.57079632673412561417e+00;  // first 33 bits of pi/2
  constexpr double kPart2 = 6.07710050630396597660e-11;  // next 33 bits
  constexpr double kPart3 = 2.02226624871116645580e-21;  // the next
  const double x = angle;
  const double n = std::nearbyint(x * kTwoOverPi);
  double r = std::fma(-n, kPart1, x);
  r = std::fma(-n, kPart2, r);
  r = std::fma(-n, kPart3, r);
  const double r2 = r * r;
  double s = -1.0 / 1307674368000.0;  // 1/15!
  s = std::fma(s, r2, 1.0 / 6227020800.0);
  s = std::fma(s, r2, -1.0 / 39916800.0);
  s = std::fma(s, r2, 1.0 / 362880.0);
  s = std::fma(s, r2, -1.0 / 5040.0);
  s = std::fma(s, r2, 1.0 / 120.0);
  s = std::fma(s, r2, -1.0 / 6.0);
  s = std::fma(s * r2, r, r);
  double c = 1.0 / 20922789888000.0;  // 1/16!
  c = std::fma(c, r2, -1.0 / 87178291200.0);
  c = std::fma(c, r2, 1.0 / 479001600.0);
  c = std::fma(c, r2, -1.0 / 3628800.0);
  c = std::fma(c, r2, 1.0 / 40320.0);
  c = std::fma(c, r2, -1.0 / 720.0);
  c = std::fma(c, r2, 1.0 / 24.0);
  c = std::fma(c, r2, -0.5);
  c = std::fma(c, r2, 1.0);
  const int64_t quadrant = static_cast<int64_t>(n) & 3;
  const double a = (quadrant & 1) ? c : s;
  const double b = (quadrant & 1) ? s : c;
  sine = static_cast<float>((quadrant & 2) ? -a : a);
  cosine = static_cast<float>((quadrant == 1 || quadrant == 2) ? -b : b);
}

}  // namespace tandem::kernels
