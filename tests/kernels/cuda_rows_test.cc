// Operations on rows of a GPU against the scalar specification.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/base/math.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/kernels.h"
#include "kernels/ref/ref_backend.h"
#include "tests/support/cuda_memory.h"
#include "tests/support/random_values.h"

namespace tandem::kernels {
namespace {

using testing::CudaArray;
using testing::CudaStream;
using testing::RandomFloats;

// 2^-24 is a rounding's share of its result.
constexpr float kRounding = 0x1p-24f;

TEST(CudaRows, NormsFollowReference) {
  CudaStream stream;
  const auto ref = MakeRefBackend();
  for (int64_t hidden : {1, 15, 64, 100, 1028}) {
    const int64_t tokens = 3;
    const auto delta = RandomFloats(tokens * hidden, 1);
    const auto residual = RandomFloats(tokens * hidden, 2);
    const auto weight = RandomFloats(hidden, 3), bias = RandomFloats(hidden, 4);
    const CudaArray<float> d(stream, delta), w(stream, weight), b(stream, bias);
    for (int variant = 0; variant < 3; ++variant) {
      auto r1 = residual;
      std::vector<float> o1(r1.size());
      ref->AddRmsNorm(variant > 0 ? delta.data() : nullptr, variant > 1 ? bias.data() : nullptr,
                      r1.data(), weight.data(), 1e-5f, tokens, hidden, o1.data());
      CudaArray<float> r2(stream, residual), o2(stream, r1.size());
      cuda::AddRmsNorm(stream.get(), variant > 0 ? d.data() : nullptr,
                       variant > 1 ? b.data() : nullptr, r2.data(), w.data(), 1e-5f, tokens, hidden,
                       o2.data());
      EXPECT_EQ(r2.ToHost(), r1);
      const auto found = o2.ToHost();
      for (size_t i = 0; i < found.size(); ++i) {
        // The sum of squares has positive terms: `hidden` roundings at most, half of them
        // after the root; then some for quotient, root and two products.
        const float bound = (static_cast<float>(hidden) + 8) * kRounding * std::fabs(o1[i]);
        ASSERT_NEAR(found[i], o1[i], bound) << hidden << " " << i;
      }
    }
  }
}

TEST(CudaRows, AnglesFollowReference) {
  CudaStream stream;
  const auto ref = MakeRefBackend();
  const std::vector<int32_t> positions = {0, 1, 1000, 131071};
  const std::vector<float> frequencies = {1.0f, 0.3f, 1e-5f};
  const int64_t n = 12;
  std::vector<float> c1(n), s1(n);
  ref->RopeAngles(positions.data(), 4, frequencies.data(), 3, 1.25f, c1.data(), s1.data());
  CudaArray<int32_t> p(stream, positions);
  CudaArray<float> f(stream, frequencies), c2(stream, n), s2(stream, n);
  cuda::RopeAngles(stream.get(), p.data(), 4, f.data(), 3, 1.25f, c2.data(), s2.data());
  const auto cos = c2.ToHost(), sin = s2.ToHost();
  for (int64_t i = 0; i < n; ++i) {
    // sincosf is off by two units in the last place at most, of values up to 1.25.
    EXPECT_NEAR(cos[i], c1[i], 8 * kRounding);
    EXPECT_NEAR(sin[i], s1[i], 8 * kRounding);
  }
}

TEST(CudaRows, GatesFollowReference) {
  CudaStream stream;
  const auto ref = MakeRefBackend();
  const int64_t tokens = 3, columns = 172;
  auto gate_up = RandomFloats(tokens * 2 * columns, 1, 10.0f);
  gate_up[0] = 500;
  gate_up[1] = -500;
  std::vector<float> expected(tokens * columns);
  ref->SiluMul(gate_up.data(), tokens, columns, expected.data());
  CudaArray<float> x(stream, gate_up), y(stream, expected.size());
  cuda::SiluMul(stream.get(), x.data(), tokens, columns, y.data());
  const auto found = y.ToHost();
  for (size_t i = 0; i < found.size(); ++i) {
    // Both exponentials are off by two units at most; below exp(-87) the reference has 0.
    EXPECT_NEAR(found[i], expected[i], 16 * kRounding * std::fabs(expected[i]) + 1e-30f) << i;
  }
}

TEST(CudaRows, GathersAndConversionsAreExact) {
  CudaStream stream;
  const auto values = RandomFloats(5 * 7, 1);
  CudaArray<float> x(stream, values), y(stream, 2 * 7);
  CudaArray<int32_t> indices(stream, std::vector<int32_t>{4, 0});
  cuda::GatherRows(stream.get(), x.data(), indices.data(), 2, 7, y.data());
  const auto rows = y.ToHost();
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(rows[i], values[4 * 7 + i]);
    EXPECT_EQ(rows[7 + i], values[i]);
  }
  for (const DType dtype : {DType::kF16, DType::kBF16}) {
    CudaArray<uint16_t> narrow(stream, values.size());
    CudaArray<float> wide(stream, values.size());
    cuda::Narrow(stream.get(), x.data(), dtype, values.size(), narrow.data());
    cuda::Widen(stream.get(), narrow.data(), dtype, values.size(), wide.data());
    const auto bits = narrow.ToHost();
    const auto back = wide.ToHost();
    for (size_t i = 0; i < values.size(); ++i) {
      const bool half = dtype == DType::kF16;
      EXPECT_EQ(bits[i], half ? FloatToF16(values[i]) : FloatToBf16(values[i]));
      EXPECT_EQ(back[i], half ? F16ToFloat(bits[i]) : Bf16ToFloat(bits[i]));
    }
  }
}

// Infinities would become NaN in a product.
TEST(CudaRows, WhatIsBeyondFp16BecomesItsLargest) {
  CudaStream stream;
  const std::vector<float> values = {65504,  65519.99f, 65520, 1e30f,   INFINITY,
                                     -65520, -INFINITY, NAN,   0x1p-24f};
  const std::vector<float> expected = {65504,  65504,  65504, 65504,   65504,
                                       -65504, -65504, NAN,   0x1p-24f};
  const CudaArray<float> x(stream, values);
  CudaArray<uint16_t> narrow(stream, values.size());
  cuda::Narrow(stream.get(), x.data(), DType::kF16, values.size(), narrow.data());
  const auto bits = narrow.ToHost();
  for (size_t i = 0; i < values.size(); ++i) {
    const float found = F16ToFloat(bits[i]);
    EXPECT_TRUE(found == expected[i] || (std::isnan(found) && std::isnan(expected[i])))
        << values[i] << ": " << found;
  }
}

// Else attention would go on as if nothing were wrong.
TEST(CudaRows, ANanOfInt8KeysReachesTheirScale) {
  CudaStream stream;
  constexpr int64_t kHeadDim = 64;
  KvCacheView cache = {.dtype = KvDType::kI8, .kv_heads = 1, .head_dim = kHeadDim};
  auto qkv = RandomFloats(3 * kHeadDim, 1);
  qkv[kHeadDim + 5] = NAN;
  const CudaArray<float> x(stream, qkv), cos(stream, std::vector<float>(kHeadDim / 2, 1)),
      sin(stream, std::vector<float>(kHeadDim / 2));
  const CudaArray<int32_t> slots(stream, std::vector<int32_t>{3});
  CudaArray<std::byte> k(stream, cache.k_block_bytes()), v(stream, cache.v_block_bytes());
  cache.k = k.data();
  cache.v = v.data();
  cuda::RopeAndCache(stream.get(), {.tokens = 1,
                                    .q_heads = 1,
                                    .qkv = x.data(),
                                    .cos = cos.data(),
                                    .sin = sin.data(),
                                    .slot_mapping = slots.data(),
                                    .cache = cache});
  auto keys = k.ToHost(), values = v.ToHost();
  cache.k = keys.data();
  cache.v = values.data();
  EXPECT_TRUE(std::isnan(cache.k_scales(0, 0)[3]));
  EXPECT_FALSE(std::isnan(cache.v_scales(0, 0)[3]));
}

// A grid has no more blocks in y and z.
TEST(CudaRows, MayBeMoreThan65535) {
  CudaStream stream;
  constexpr int64_t kRows = 65537;
  const auto gate_up = RandomFloats(2 * kRows, 1);
  const CudaArray<float> x(stream, gate_up), one(stream, std::vector<float>{1});
  CudaArray<float> y(stream, kRows);
  cuda::SiluMul(stream.get(), x.data(), kRows, 1, y.data());
  const auto products = y.ToHost();
  cuda::AddBias(stream.get(), one.data(), kRows, 1, y.data());
  const auto sums = y.ToHost();
  for (const int64_t row : {int64_t{0}, int64_t{65535}, kRows - 1}) {
    const float g = gate_up[2 * row];
    const float expected = g / (1.0f + std::exp(-g)) * gate_up[2 * row + 1];
    EXPECT_NEAR(products[row], expected, 16 * kRounding * std::fabs(expected)) << row;
    EXPECT_EQ(sums[row], products[row] + 1.0f) << row;
  }
  // A quarter turn of two dimensions.
  const CudaArray<float> cos(stream, std::vector<float>(kRows)),
      sin(stream, std::vector<float>(kRows, 1));
  cuda::RopeAndCache(stream.get(), {.tokens = kRows,
                                    .q_heads = 1,
                                    .qkv = x.data(),
                                    .cos = cos.data(),
                                    .sin = sin.data(),
                                    .cache = {.head_dim = 2}});
  const auto turned = x.ToHost();
  for (const int64_t row : {int64_t{0}, int64_t{65535}, kRows - 1}) {
    EXPECT_EQ(turned[2 * row], -gate_up[2 * row + 1]) << row;
    EXPECT_EQ(turned[2 * row + 1], gate_up[2 * row]) << row;
  }
}

}  // namespace
}  // namespace tandem::kernels
