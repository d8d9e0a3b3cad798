#include "kernels/base/math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace tandem::kernels {
namespace {

TEST(Math, Bf16RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie to even
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::nanf("")))));
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    ASSERT_EQ(FloatToBf16(Bf16ToFloat(static_cast<uint16_t>(bits))), bits);
  }
}

TEST(Math, F16RoundTrip) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    ASSERT_EQ(FloatToF16(F16ToFloat(static_cast<uint16_t>(bits))), bits);
  }
  EXPECT_EQ(FloatToF16(65504.0f), 0x7bff);
  EXPECT_EQ(FloatToF16(1e6f), 0x7c00);
}

TEST(Math, E4m3RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    if (bits % 128 == 127) continue;
    const auto code = static_cast<uint8_t>(bits);
    ASSERT_EQ(FloatToE4m3(E4m3ToFloat(code)), code);
    // Half-way to the next, and beside that.
    const float value = E4m3ToFloat(code);
    const float next = bits % 128 == 126 ? std::copysign(480.0f, value) : E4m3ToFloat(code + 1);
    const float middle = (value + next) / 2;
    const uint8_t largest = code | 0x7e;
    const uint8_t above = bits % 128 == 126 ? largest : code + 1;
    ASSERT_EQ(FloatToE4m3(middle), bits % 2 == 0 ? code : above) << bits;
    ASSERT_EQ(FloatToE4m3(std::nextafter(middle, 0.0f)), code) << bits;
    ASSERT_EQ(FloatToE4m3(std::nextafter(middle, 2 * next)), above) << bits;
  }
  EXPECT_EQ(E4m3ToFloat(0x7e), 448);
  EXPECT_EQ(E4m3ToFloat(0x01), 0x1p-9f);
  EXPECT_EQ(FloatToE4m3(1e30f), 0x7e);
  EXPECT_EQ(FloatToE4m3(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_TRUE(std::isnan(E4m3ToFloat(FloatToE4m3(std::nanf("")))));
}

TEST(Math, ExpIsWithinTwoUlp) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> value(kExpMin, kExpMax);
  double worst = 0;
  for (int i = 0; i < 1000000; ++i) {
    const float x = value(random);
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(ExpF32(x) - exact) / exact);
  }
  // r is off by at most 2^-24 |x| from the reduction's roundings (n * kLn2High is
  // exact), the polynomial by 2^-27 and each of its last steps by 2^-24.
  EXPECT_LT(worst, 2.0 / (1 << 23));
  EXPECT_EQ(ExpF32(0.0f), 1.0f);
  EXPECT_EQ(ExpF32(-1000.0f), 0.0f);
  EXPECT_EQ(ExpF32(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_GT(ExpF32(1000.0f), 1e38f);
}

TEST(Math, SinCosAreCorrectlyRoundedNearlyAlways) {
  std::mt19937 random(2);
  for (double scale : {1.0, 100.0, 131072.0, 1e8}) {
    std::uniform_real_distribution<float> value(-scale, scale);
    for (int i = 0; i < 100000; ++i) {
      const float x = value(random);
      float s, c;
      SinCosF32(x, s, c);
      // Half an ulp, and the double's own error.
      const double es = std::sin(static_cast<double>(x)), ec = std::cos(static_cast<double>(x));
      ASSERT_NEAR(s, es, std::abs(es) * 6.1e-8 + 1e-16) << x;
      ASSERT_NEAR(c, ec, std::abs(ec) * 6.1e-8 + 1e-16) << x;
    }
  }
  float s, c;
  SinCosF32(0.0f, s, c);
  EXPECT_EQ(s, 0.0f);
  EXPECT_EQ(c, 1.0f);
}

}  // namespace
}  // namespace tandem::kernels
