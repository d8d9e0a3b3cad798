// Every operation of the CPU backend against the scalar specification: equality,
// not closeness, for each instruction set, thread count and awkward shape.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "kernels/base/math.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/ref/ref_backend.h"

namespace tandem::kernels {
namespace {

std::vector<float> RandomFloats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0, scale);
  std::vector<float> out(n);
  for (float& v : out) v = value(random);
  return out;
}

std::vector<std::byte> Encode(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> out(values.size() * DTypeSize(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(out.data() + i * 4, &values[i], 4);
    } else {
      const uint16_t bits = dtype == DType::kF16 ? FloatToF16(values[i]) : FloatToBf16(values[i]);
      std::memcpy(out.data() + i * 2, &bits, 2);
    }
  }
  return out;
}

std::vector<std::unique_ptr<Backend>> CpuBackends() {
  std::vector<std::unique_ptr<Backend>> out;
  for (int threads : {1, 2, 3}) {
    out.push_back(*MakeCpuBackend("auto", {.threads = threads}));
  }
  return out;
}

TEST(Ops, NormsEqualReference) {
  const auto ref = MakeRefBackend();
  for (int64_t hidden : {1, 15, 16, 64, 100, 4096}) {
    const int64_t tokens = 5;
    const auto delta = RandomFloats(tokens * hidden, 1);
    const auto residual = RandomFloats(tokens * hidden, 2);
    const auto weight = RandomFloats(hidden, 3), bias = RandomFloats(hidden, 4);
    for (int variant = 0; variant < 3; ++variant) {
      const float* d = variant > 0 ? delta.data() : nullptr;
      const float* b = variant > 1 ? bias.data() : nullptr;
      auto r1 = residual;
      std::vector<float> o1(r1.size());
      ref->AddRmsNorm(d, b, r1.data(), weight.data(), 1e-5f, tokens, hidden, o1.data());
      for (const auto& cpu : CpuBackends()) {
        auto r2 = residual;
        std::vector<float> o2(r2.size());
        cpu->AddRmsNorm(d, b, r2.data(), weight.data(), 1e-5f, tokens, hidden, o2.data());
        ASSERT_EQ(r1, r2);
        ASSERT_EQ(o1, o2);
      }
    }
  }
}

TEST(Ops, SiluMulAndEmbeddingEqualReference) {
  const auto ref = MakeRefBackend();
  const int64_t tokens = 6, columns = 172;
  auto gate_up = RandomFloats(tokens * 2 * columns, 1, 10.0f);
  gate_up[0] = 500;
  gate_up[1] = -500;
  std::vector<float> expected(tokens * columns), found(expected.size());
  ref->SiluMul(gate_up.data(), tokens, columns, expected.data());
  for (const auto& cpu : CpuBackends()) {
    cpu->SiluMul(gate_up.data(), tokens, columns, found.data());
    ASSERT_EQ(found, expected);
  }
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    auto table = Encode(RandomFloats(10 * 37, 2), dtype);
    table.insert(table.begin(), std::byte{0});  // a file may put it at any address
    const int32_t ids[] = {3, 9, 0};
    std::vector<float> e(3 * 37), f(3 * 37);
    ref->EmbedTokens(table.data() + 1, dtype, 37, ids, 3, e.data());
    for (const auto& cpu : CpuBackends()) {
      cpu->EmbedTokens(table.data() + 1, dtype, 37, ids, 3, f.data());
      ASSERT_EQ(e, f);
    }
  }
}

// A small world of sequences with shuffled blocks; runs RopeAndCache and
// PagedAttention on a backend and returns cache and output.
struct AttentionCase {
  int64_t q_heads, kv_heads, head_dim;
  DType dtype;
  bool qk_norm;
};

struct AttentionResult {
  std::vector<float> out, qkv;
  std::vector<std::byte> k, v;
  bool operator==(const AttentionResult&) const = default;
};

AttentionResult RunAttention(Backend& backend, const AttentionCase& c, int64_t chunk) {
  const std::vector<int32_t> lengths = {1, 16, 33, 300, 530};
  const int64_t max_blocks = 40;
  std::vector<int32_t> blocks(lengths.size() * max_blocks);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(5));
  const int64_t num_blocks = static_cast<int64_t>(blocks.size());
  KvCacheView cache = {.dtype = c.dtype, .kv_heads = c.kv_heads, .head_dim = c.head_dim};
  const size_t size = DTypeSize(c.dtype);
  AttentionResult result;
  result.k.resize(num_blocks * cache.k_block_elements() * size);
  result.v.resize(num_blocks * cache.v_block_elements() * size);
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

TEST(Ops, AttentionEqualsReferenceForAnyChunks) {
  const auto ref = MakeRefBackend();
  const AttentionCase cases[] = {{8, 4, 8, DType::kF32, false},  {6, 2, 24, DType::kBF16, true},
                                 {7, 7, 32, DType::kF16, false}, {8, 1, 64, DType::kBF16, false},
                                 {5, 2, 40, DType::kF32, true},  {0, 0, 16, DType::kF32, false}};
  for (const AttentionCase& c : cases) {
    const AttentionResult expected = RunAttention(*ref, c, 1000);
    for (const auto& cpu : CpuBackends()) {
      EXPECT_TRUE(RunAttention(*cpu, c, 1000) == expected) << c.head_dim;
    }
    const auto cpu = *MakeCpuBackend("auto", {.threads = 2});
    for (int64_t chunk : {1, 7, 64}) {
      EXPECT_TRUE(RunAttention(*cpu, c, chunk) == expected) << c.head_dim << " chunk " << chunk;
    }
  }
}

TEST(Ops, AttentionIsSoftmaxAttention) {
  // Against plain softmax in double. |score| <= d * |q| * |k| * scale; each fp32
  // dot product of d terms is off by at most d * 2^-24 * sum |q_i k_i| * scale,
  // which shifts a weight by that factor; sums over n positions add n * 2^-24.
  const AttentionCase c = {1, 1, 16, DType::kF32, false};
  const auto cpu = *MakeCpuBackend("auto", {.threads = 1});
  const int64_t n = 530, d = 16, width = 3 * d;
  std::vector<std::byte> k((n + 15) / 16 * 16 * d * 4), v(k.size());
  KvCacheView cache = {DType::kF32, k.data(), v.data(), 1, d};
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
                       .scale = 0.25f,
                       .cache = cache,
                       .out = out.data()});
  for (int64_t t = 0; t < n; ++t) {
    std::vector<double> weights(t + 1), exact(d);
    double sum = 0;
    for (int64_t j = 0; j <= t; ++j) {
      double dot = 0;
      for (int64_t i = 0; i < d; ++i) dot += qkv[t * width + i] * qkv[j * width + d + i];
      sum += weights[j] = std::exp(dot * 0.25);
    }
    for (int64_t j = 0; j <= t; ++j) {
      for (int64_t i = 0; i < d; ++i) exact[i] += weights[j] / sum * qkv[j * width + 2 * d + i];
    }
    for (int64_t i = 0; i < d; ++i) ASSERT_NEAR(out[t * d + i], exact[i], 1e-5) << t;
  }
  (void)c;
}

TEST(Ops, PinnedIsaIsRefusedByName) {
  EXPECT_EQ(PinIsa("avx9").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(PinIsa("ref").ok());
  EXPECT_EQ(IsaInUse("ref"), "ref");
}

// Last: it restricts the process from here on.
TEST(OpsPinned, Avx2EqualsReference) {
  if (!PinIsa("avx2").ok()) GTEST_SKIP() << "this CPU lacks AVX2";
  ASSERT_EQ(IsaInUse("avx2"), "AVX2");
  const auto ref = MakeRefBackend();
  const auto cpu = *MakeCpuBackend("avx2", {.threads = 2});
  const AttentionCase c = {6, 2, 24, DType::kBF16, true};
  EXPECT_TRUE(RunAttention(*cpu, c, 1000) == RunAttention(*ref, c, 1000));
}

}  // namespace
}  // namespace tandem::kernels
