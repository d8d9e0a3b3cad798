#include "kernels/base/exact_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/base/sampling_math.h"
#include "runtime/engine/philox.h"

namespace tandem::engine {
namespace {

using kernels::ExactExp;
using kernels::ExactLog;

// long double's 64-bit mantissa is the oracle; 2^-50 is the header's promise.
TEST(ExactMathTest, ExpIsWithinItsBound) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> wide(-700, 700), narrow(-1, 1);
  for (int i = 0; i < 300000; ++i) {
    const double x = i % 2 == 0 ? wide(random) : narrow(random);
    const long double expected = std::exp(static_cast<long double>(x));
    ASSERT_LE(std::fabs((ExactExp(x) - expected) / expected), 0x1p-50L) << x;
  }
  EXPECT_EQ(ExactExp(0.0), 1.0);
  EXPECT_EQ(ExactExp(-INFINITY), ExactExp(-700.0));
  EXPECT_EQ(ExactExp(1e300), ExactExp(700.0));
}

TEST(ExactMathTest, LogIsWithinItsBound) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(-700, 700);
  std::uniform_real_distribution<double> sum(1, 200000);
  for (int i = 0; i < 300000; ++i) {
    const double x = i % 2 == 0 ? std::exp(exponent(random)) : sum(random);
    const long double expected = std::log(static_cast<long double>(x));
    ASSERT_LE(std::fabs(ExactLog(x) - expected), 0x1p-50L * std::max(1.0L, std::fabs(expected)))
        << x;
  }
  EXPECT_EQ(ExactLog(1.0), 0.0);
  EXPECT_EQ(ExactLog(0.0), -INFINITY);
}

// The sum was computed by the same formulas in Python, whose floats fuse nothing:
// a compiler or CPU that rounds otherwise fails here.
TEST(ExactMathTest, BitsAreFixed) {
  uint64_t sum = 0;
  for (int i = 0; i < 10000; ++i) {
    sum = sum * 31 + std::bit_cast<uint64_t>(ExactExp(-i * 0.0031));
    sum = sum * 31 + std::bit_cast<uint64_t>(ExactLog(1.0 + i * 1.7));
  }
  EXPECT_EQ(sum, 7586112878475282212u);
}

// An addition would change them, as each device likes.
TEST(OrderedKeyTest, KeepsTheBitsOfNan) {
  for (const int32_t bits : {0x7f800001, 0x7fc00000, 0x7fffffff}) {
    EXPECT_EQ(kernels::OrderedKey(std::bit_cast<float>(bits)), bits);
    EXPECT_EQ(kernels::OrderedKey(std::bit_cast<float>(bits | INT32_MIN)), ~bits);
  }
  EXPECT_EQ(kernels::OrderedKey(-0.0f), kernels::OrderedKey(0.0f));
}

// The known-answer vectors that the authors publish with their library
// (Random123, kat_vectors, philox4x32 10).
TEST(PhiloxTest, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

}  // namespace
}  // namespace tandem::engine
