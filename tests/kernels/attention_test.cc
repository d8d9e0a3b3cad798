// RopeAndCache and PagedAttention of the CPU backend against the scalar
// specification: equality for each instruction set, cache type, thread count,
// chunking and awkward shape.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "kernels/base/math.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"
#include "tests/support/cpu_backends.h"

namespace tandem::kernels {
namespace {

using testing::SameBits;

std::vector<float> RandomFloats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0, scale);
  std::vector<float> out(n);
  for (float& v : out) v = value(random);
  return out;
}

// A small world of sequences with shuffled blocks; runs RopeAndCache and
// PagedAttention on a backend and returns cache and output.
struct AttentionCase {
  int64_t q_heads, kv_heads, head_dim;
  KvDType dtype;
  bool qk_norm;
};

struct AttentionResult {
  std::vector<float> out, qkv;
  std::vector<std::byte> k, v;
  // By bits. What was never written is NaN in both.
  bool operator==(const AttentionResult& other) const {
    return SameBits(out, other.out) && SameBits(qkv, other.qkv) && k == other.k && v == other.v;
  }
};

AttentionResult RunAttention(Backend& backend, const AttentionCase& c, int64_t chunk) {
  const std::vector<int32_t> lengths = {1, 16, 33, 270, 520};
  const int64_t max_blocks = 40;
  std::vector<int32_t> blocks(lengths.size() * max_blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(5));
  const int64_t num_blocks = static_cast<int64_t>(blocks.size());
  KvCacheView cache = {.dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim};
  AttentionResult result;
  // Other sequences may have left anything, NaN in floats and scales too.
  result.k.resize(num_blocks * cache.k_block_bytes(), std::byte{0xff});
  result.v.resize(num_blocks * cache.v_block_bytes(), std::byte{0xff});
  cache.k = result.k.data();
  cache.v = result.v.data();
  std::vector<int32_t> head_to_kv(c.q_heads);
  for (int64_t h = 0; h < c.q_heads; ++h) {
    head_to_kv[h] = static_cast<int32_t>(h * c.kv_heads / c.q_heads);
  }
  const int64_t width = (c.q_heads + 2 * c.kv_heads) * c.head_dim;
  const auto q_norm = RandomFloats(c.head_dim, 11), k_norm = RandomFloats(c.head_dim, 12);
  std::vector<float> frequencies(c.head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = 1.0f / (1 + i);

  for (size_t s = 0; s < lengths.size(); ++s) {
    const auto all = RandomFloats(lengths[s] * width, 20 + s);
    for (int64_t begin = 0; begin < lengths[s]; begin += chunk) {
      const int64_t n = std::min<int64_t>(chunk, lengths[s] - begin);
      std::vector<float> qkv(all.begin() + begin * width, all.begin() + (begin + n) * width);
      std::vector<int32_t> positions(n), slots(n), sequence(n, static_cast<int32_t>(s));
      for (int64_t t = 0; t < n; ++t) {
        positions[t] = static_cast<int32_t>(begin + t);
        slots[t] = blocks[s * max_blocks + positions[t] / 16] * 16 + positions[t] % 16;
      }
      std::vector<float> cos(n * c.head_dim / 2), sin(cos.size());
      backend.RopeAngles(positions.data(), n, frequencies.data(), c.head_dim / 2, 1.25f, cos.data(),
                         sin.data());
      backend.RopeAndCache({.tokens = n,
                            .q_heads = c.q_heads,
                            .head_dim = c.head_dim,
                            .qkv = qkv.data(),
                            .q_norm = c.qk_norm ? q_norm.data() : nullptr,
                            .k_norm = c.qk_norm ? k_norm.data() : nullptr,
                            .norm_epsilon = 1e-6f,
                            .cos = cos.data(),
                            .sin = sin.data(),
                            .slot_mapping = slots.data(),
                            .cache = cache});
      std::vector<float> out(n * c.q_heads * c.head_dim);
      backend.PagedAttention({.tokens = n,
                              .q_heads = c.q_heads,
                              .head_dim = c.head_dim,
                              .qkv = qkv.data(),
                              .qkv_stride = width,
                              .positions = positions.data(),
                              .token_sequence = sequence.data(),
                              .block_tables = blocks.data(),
                              .max_blocks = max_blocks,
                              .head_to_kv = head_to_kv.data(),
                              .scale = 0.125f,
                              .cache = cache,
                              .out = out.data()});
      result.out.insert(result.out.end(), out.begin(), out.end());
      result.qkv.insert(result.qkv.end(), qkv.begin(), qkv.end());
    }
  }
  return result;
}

const AttentionCase kCases[] = {
    {4, 2, 8, KvDType::kF32, false},   {6, 2, 24, KvDType::kBF16, true},
    {3, 3, 32, KvDType::kF16, false},  {4, 1, 64, KvDType::kBF16, false},
    {5, 2, 40, KvDType::kF32, true},   {0, 0, 16, KvDType::kF32, false},
    {4, 1, 64, KvDType::kI8, false},   {6, 2, 24, KvDType::kI8, true},
    {3, 3, 10, KvDType::kI8, false},   {2, 1, 128, KvDType::kI8, true},
    {40, 1, 4, KvDType::kBF16, false}, {7, 1, 16, KvDType::kF16, false},
    {4, 2, 6, KvDType::kBF16, false},  {9, 1, 16, KvDType::kF32, false}};

std::string Name(const AttentionCase& c) {
  return std::to_string(c.q_heads) + "/" + std::to_string(c.kv_heads) + " heads of " +
         std::to_string(c.head_dim) + " in " + std::string(KvDTypeName(c.dtype));
}

TEST(Attention, EqualsReferenceForAnyChunksAndThreads) {
  const auto ref = MakeRefBackend();
  for (const AttentionCase& c : kCases) {
    const AttentionResult expected = RunAttention(*ref, c, 1000);
    for (float x : expected.out) ASSERT_TRUE(std::isfinite(x)) << Name(c);
    for (int threads : {1, 2, 3}) {
      const auto cpu = *MakeCpuBackend("auto", {.threads = threads});
      EXPECT_TRUE(RunAttention(*cpu, c, 1000) == expected) << Name(c);
      if (threads == 1) continue;
      for (int64_t chunk : {1, 7}) {
        EXPECT_TRUE(RunAttention(*cpu, c, chunk) == expected)
            << Name(c) << ", chunks of " << chunk << ", threads " << threads;
      }
    }
  }
}

// Of one head over its cached positions, in double, from the same inputs.
void ExpectSoftmaxAttention(KvDType dtype) {
  const auto cpu = *MakeCpuBackend("auto", {.threads = 1});
  const int64_t n = 530, d = 16, width = 3 * d;
  const double scale = 0.25;
  KvCacheView cache = {.dtype = dtype, .kv_heads = 1, .head_dim = d};
  std::vector<std::byte> k((n + 15) / 16 * cache.k_block_bytes());
  std::vector<std::byte> v((n + 15) / 16 * cache.v_block_bytes());
  cache.k = k.data();
  cache.v = v.data();
  auto qkv = RandomFloats(n * width, 9);
  std::vector<float> frequencies(d / 2, 0.0f), cos(n * d / 2), sin(n * d / 2);
  std::vector<int32_t> positions(n), slots(n), sequence(n, 0), blocks((n + 15) / 16);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(slots.begin(), slots.end(), 0);
  std::iota(blocks.begin(), blocks.end(), 0);
  cpu->RopeAngles(positions.data(), n, frequencies.data(), d / 2, 1.0f, cos.data(), sin.data());
  cpu->RopeAndCache({.tokens = n,
                     .q_heads = 1,
                     .head_dim = d,
                     .qkv = qkv.data(),
                     .cos = cos.data(),
                     .sin = sin.data(),
                     .slot_mapping = slots.data(),
                     .cache = cache});
  std::vector<float> out(n * d);
  const int32_t head_to_kv[] = {0};
  cpu->PagedAttention({.tokens = n,
                       .q_heads = 1,
                       .head_dim = d,
                       .qkv = qkv.data(),
                       .qkv_stride = width,
                       .positions = positions.data(),
                       .token_sequence = sequence.data(),
                       .block_tables = blocks.data(),
                       .max_blocks = static_cast<int64_t>(blocks.size()),
                       .head_to_kv = head_to_kv,
                       .scale = static_cast<float>(scale),
                       .cache = cache,
                       .out = out.data()});
  // Rounding of an element of q, K, V or a weight, relative to itself (floats) or
  // to its row's largest (codes); fp32 sums of d and of n terms add theirs.
  const bool codes = dtype == KvDType::kI8;
  const double unit = dtype == KvDType::kF32    ? 0x1p-24
                      : dtype == KvDType::kF16  ? 0x1p-11
                      : dtype == KvDType::kBF16 ? 0x1p-9
                                                : 0.5 / 127;
  const double q_unit = dtype == KvDType::kBF16 ? 0x1p-9 : codes ? 0.5 / 32512 : 0x1p-24;
  const double p_unit = dtype == KvDType::kBF16 ? 0x1p-9 : codes ? 0.5 / 32767 : 0x1p-24;
  const auto largest = [&](int64_t t, int64_t from) {
    double most = 0;
    for (int64_t i = 0; i < d; ++i)
      most = std::max<double>(most, std::fabs(qkv[t * width + from + i]));
    return most;
  };
  for (int64_t t = 0; t < n; ++t) {
    std::vector<double> weights(t + 1), exact(d);
    double sum = 0, score_error = 0, v_largest = 0;
    for (int64_t j = 0; j <= t; ++j) {
      double dot = 0, error = 0;
      for (int64_t i = 0; i < d; ++i) {
        const double q = qkv[t * width + i], key = qkv[j * width + d + i];
        dot += q * key;
        error += std::fabs(q) * unit * (codes ? largest(j, d) : std::fabs(key)) +
                 std::fabs(key) * q_unit * (codes ? largest(t, 0) : std::fabs(q)) +
                 std::fabs(q * key) * d * 0x1p-24;
      }
      score_error = std::max(score_error, error * scale);
      v_largest = std::max(v_largest, largest(j, 2 * d));
      sum += weights[j] = std::exp(dot * scale);
    }
    for (int64_t j = 0; j <= t; ++j) {
      for (int64_t i = 0; i < d; ++i) exact[i] += weights[j] / sum * qkv[j * width + 2 * d + i];
    }
    // Weights are off by a factor of e^score_error, twice because of their sum,
    // and by their own rounding: to the partition's largest for codes, of which the n
    // positions may hold as many. V is off by its own.
    const double weight_error =
        2 * std::expm1(score_error) + 2 * p_unit * (codes ? t + 1 : 1) + (t + 1) * 0x1p-23;
    const double bound = v_largest * (weight_error + unit);
    for (int64_t i = 0; i < d; ++i) {
      ASSERT_NEAR(out[t * d + i], exact[i], 1.01 * bound) << t << " " << KvDTypeName(dtype);
    }
  }
}

TEST(Attention, IsSoftmaxAttention) {
  for (KvDType dtype : {KvDType::kF32, KvDType::kF16, KvDType::kBF16, KvDType::kI8}) {
    ExpectSoftmaxAttention(dtype);
  }
}

// Attention of one head over its n positions: qkv [n, 3 * d], which is not rotated.
std::vector<float> OneHead(Backend& backend, KvDType dtype, std::vector<float> qkv, int64_t d,
                           float scale) {
  const int64_t n = static_cast<int64_t>(qkv.size()) / (3 * d);
  KvCacheView cache = {.dtype = dtype, .kv_heads = 1, .head_dim = d};
  std::vector<int32_t> positions(n), sequence(n, 0), blocks((n + 15) / 16);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<std::byte> k(blocks.size() * cache.k_block_bytes());
  std::vector<std::byte> v(blocks.size() * cache.v_block_bytes());
  cache.k = k.data();
  cache.v = v.data();
  std::vector<float> cos(n * d / 2, 1.0f), sin(n * d / 2, 0.0f), out(n * d);
  const int32_t head_to_kv[] = {0};
  backend.RopeAndCache({.tokens = n,
                        .q_heads = 1,
                        .head_dim = d,
                        .qkv = qkv.data(),
                        .cos = cos.data(),
                        .sin = sin.data(),
                        .slot_mapping = positions.data(),
                        .cache = cache});
  backend.PagedAttention({.tokens = n,
                          .q_heads = 1,
                          .head_dim = d,
                          .qkv = qkv.data(),
                          .qkv_stride = 3 * d,
                          .positions = positions.data(),
                          .token_sequence = sequence.data(),
                          .block_tables = blocks.data(),
                          .max_blocks = static_cast<int64_t>(blocks.size()),
                          .head_to_kv = head_to_kv,
                          .scale = scale,
                          .cache = cache,
                          .out = out.data()});
  return out;
}

constexpr KvDType kDTypes[] = {KvDType::kF32, KvDType::kF16, KvDType::kBF16, KvDType::kI8};

// K and V that are far apart in size between positions (within fp16), and zeros.
TEST(Attention, ExtremesEqualReference) {
  for (KvDType dtype : kDTypes) {
    const int64_t n = 40, d = 16, width = 3 * d;
    const int64_t exponents = dtype == KvDType::kF16 ? 4 : 20;
    auto values = RandomFloats(n * width, 3);
    for (int64_t t = 0; t < n; ++t) {
      const float size =
          t % 5 == 0 ? 0.0f : std::ldexp(1.0f, static_cast<int>(t % 7 * exponents - 3 * exponents));
      for (int64_t i = 0; i < 2 * d; ++i) values[t * width + d + i] *= size;
    }
    const auto cpu = *MakeCpuBackend("auto", {.threads = 2});
    EXPECT_TRUE(SameBits(OneHead(*cpu, dtype, values, d, 1e-12f),
                         OneHead(*MakeRefBackend(), dtype, values, d, 1e-12f)))
        << KvDTypeName(dtype);
  }
}

// What is not finite reaches the output of all tokens that see it, as in the specification, and no
// other token's: a NaN in a query or in K, infinity in V.
void ExpectSpecialsEqualReference(Backend& cpu) {
  const int64_t n = 300, d = 16, width = 3 * d;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto ref = MakeRefBackend();
  struct Place {
    int64_t token, column;
    float value;
  };
  for (const Place& place : {Place{20, 3, nan},
                             {5, d + 2, nan},
                             {0, d, nan},
                             {270, d + 15, nan},
                             {13, 2 * d + 7, infinity},
                             {290, 2 * d, -infinity}}) {
    auto values = RandomFloats(n * width, 4);
    values[place.token * width + place.column] = place.value;
    for (KvDType dtype : kDTypes) {
      const std::vector<float> expected = OneHead(*ref, dtype, values, d, 0.25f);
      const std::vector<float> found = OneHead(cpu, dtype, values, d, 0.25f);
      ASSERT_TRUE(SameBits(found, expected)) << KvDTypeName(dtype);
      for (int64_t t = 0; t < n; ++t) {
        const bool sees = place.column < d ? t == place.token : t >= place.token;
        bool finite = true;
        for (int64_t i = t * d; i < (t + 1) * d; ++i) {
          finite &= std::isfinite(found[i]);
        }
        ASSERT_EQ(finite, !sees) << t << " " << KvDTypeName(dtype);
      }
    }
  }
}
TEST(Attention, SpecialsEqualReference) {
  for (int threads : {1, 2})
    ExpectSpecialsEqualReference(**MakeCpuBackend("auto", {.threads = threads}));
}

// The largest codes in the largest head: with K's offset they add up to more than 32 bits.
void ExpectLargestCodesEqualReference(Backend& cpu) {
  const int64_t d = KvCacheView::kMaxHeadDim;
  for (const float key : {1.0f, -1.0f}) {
    std::vector<float> values(20 * 3 * d, 1.0f);
    for (size_t t = 0; t < 20; ++t) {
      std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(t) * 3 * d + d, d, key);
    }
    EXPECT_TRUE(SameBits(OneHead(cpu, KvDType::kI8, values, d, 1.0f),
                         OneHead(*MakeRefBackend(), KvDType::kI8, values, d, 1.0f)));
  }
}
TEST(Attention, LargestCodesEqualReference) {
  ExpectLargestCodesEqualReference(**MakeCpuBackend("auto", {.threads = 2}));
}

// Backends of all instruction sets live side by side.
TEST(Attention, EveryInstructionSetEqualsReference) {
  std::vector<std::unique_ptr<Backend>> backends;
  const std::vector<std::string> names = testing::InstructionSets();
  for (const std::string& name : names) backends.push_back(*MakeCpuBackend(name, {.threads = 2}));
  const auto ref = MakeRefBackend();
  for (const AttentionCase& c : kCases) {
    const AttentionResult expected = RunAttention(*ref, c, 1000);
    for (size_t i = 0; i < names.size(); ++i) {
      EXPECT_TRUE(RunAttention(*backends[i], c, 1000) == expected) << names[i] << ": " << Name(c);
    }
  }
  for (const auto& backend : backends) {
    ExpectSpecialsEqualReference(*backend);
    ExpectLargestCodesEqualReference(*backend);
  }
}

}  // namespace
}  // namespace tandem::kernels
