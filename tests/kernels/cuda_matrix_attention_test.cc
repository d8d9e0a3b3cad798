// Attention on a GPU's matrix units against softmax in double precision, over caches filled with
// what they may hold: NaN wherever nothing was written, tables that name no block of the cache
// where a sequence has none.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/base/math.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/device_array.h"
#include "tests/support/random_values.h"

namespace tandem::kernels {
namespace {

using testing::DeviceArray;
using testing::RandomFloats;

constexpr int64_t kMaxBlocks = 21;
constexpr float kScale = 0.3f;

// Tokens of one sequence that a step computes: positions [start, start + count); start -1: padding.
struct Chunk {
  int32_t start = 0;
  int32_t count = 1;
};

struct Heads {
  std::vector<int32_t> to_kv;
  int64_t dim = 0;
  int64_t kv_heads() const { return to_kv.back() + 1; }
};

Heads Groups(int kv_heads, int group, int64_t dim) {
  Heads heads{.dim = dim};
  for (int h = 0; h < kv_heads * group; ++h) heads.to_kv.push_back(h / group);
  return heads;
}

class Problem {
 public:
  Problem(KvDType dtype, const Heads& heads, const std::vector<Chunk>& chunks, size_t scratch_bytes)
      : heads_(heads), backend_(*MakeCudaBackend({.scratch_bytes = scratch_bytes})) {
    int32_t blocks = 0;
    for (size_t s = 0; s < chunks.size(); ++s) {
      const Chunk& chunk = chunks[s];
      for (int32_t i = 0; i < chunk.count; ++i) {
        positions_.push_back(chunk.start < 0 ? -1 : chunk.start + i);
        sequences_.push_back(static_cast<int32_t>(s));
      }
      const int32_t context = chunk.start < 0 ? 0 : chunk.start + chunk.count;
      contexts_.push_back(context);
      for (int64_t b = 0; b < kMaxBlocks; ++b) {
        tables_.push_back(b * 16 < context ? blocks++ : int32_t{1} << 30);
      }
    }
    // Neighbours of a sequence are none in the cache.
    for (int32_t& block : tables_) {
      if (block < blocks) block = blocks - 1 - block;
    }
    view_ = {.dtype = dtype, .kv_heads = heads.kv_heads(), .head_dim = heads.dim};
    Fill(blocks);
    const auto tokens = static_cast<int64_t>(positions_.size());
    width_ = (q_heads() + 2 * heads.kv_heads()) * heads.dim;
    qkv_ = RandomFloats(tokens * width_, 5);
    for (float& x : qkv_) x *= 2;
  }

  std::vector<float> Run(int64_t single_tokens) {
    const auto tokens = static_cast<int64_t>(positions_.size());
    const DeviceArray<float> x(*backend_, qkv_);
    const DeviceArray<int32_t> positions(*backend_, positions_), sequences(*backend_, sequences_),
        tables(*backend_, tables_);
    const DeviceArray<std::byte> k(*backend_, k_), v(*backend_, v_);
    const DeviceArray<float> out(*backend_,
                                 std::vector<float>(tokens * q_heads() * heads_.dim, NAN));
    KvCacheView cache = view_;
    cache.k = k.data();
    cache.v = v.data();
    backend_->PagedAttention({.tokens = tokens,
                              .q_heads = q_heads(),
                              .head_dim = heads_.dim,
                              .qkv = x.data(),
                              .qkv_stride = width_,
                              .positions = positions.data(),
                              .token_sequence = sequences.data(),
                              .block_tables = tables.data(),
                              .max_blocks = kMaxBlocks,
                              .head_to_kv = heads_.to_kv.data(),
                              .scale = kScale,
                              .cache = cache,
                              .out = out.data(),
                              .single_tokens = single_tokens,
                              .single_context = kMaxBlocks * 16});
    auto values = out.ToHost();
    EXPECT_TRUE(backend_->status().ok()) << backend_->status();
    return values;
  }

  void Check(const std::vector<float>& found) const {
    const int64_t d = heads_.dim;
    const bool bf16 = view_.dtype == KvDType::kBF16;
    // Half a step of the weights' type, relative to them.
    const double rounding = bf16 ? 0x1p-8 : 0x1p-11;
    for (size_t t = 0; t < positions_.size(); ++t) {
      const int64_t context = positions_[t] + 1;
      for (int64_t h = 0; h < q_heads(); ++h) {
        const float* const out = &found[(t * q_heads() + h) * d];
        // Queries as they are rounded, in units of log 2.
        std::vector<double> q(d);
        for (int64_t i = 0; i < d; ++i) {
          const float x = qkv_[t * width_ + h * d + i] * (kScale * 1.44269504f);
          q[i] = bf16 ? Bf16ToFloat(FloatToBf16(x)) : F16ToFloat(FloatToF16(x));
        }
        const auto& key = keys_[sequences_[t]][heads_.to_kv[h]];
        const auto& value = values_[sequences_[t]][heads_.to_kv[h]];
        std::vector<double> weights(context);
        double largest = 0, most = -INFINITY, sum = 0;
        for (int64_t j = 0; j < context; ++j) {
          double magnitude = 0;
          for (int64_t i = 0; i < d; ++i) {
            weights[j] += q[i] * key[j * d + i];
            magnitude += std::abs(q[i] * key[j * d + i]);
          }
          largest = std::max(largest, magnitude);
          most = std::max(most, weights[j]);
        }
        for (double& weight : weights) sum += weight = std::exp2(weight - most);
        // A score has d products, added with at most 2^-23 of their size lost each; what is wrong
        // with it counts in a weight and in their sum. Weights are rounded once, sums have as
        // many terms as positions.
        const double error = 2 * (static_cast<double>(d) + 8) * 0x1p-23 * largest + rounding +
                             (static_cast<double>(context) + 32) * 0x1p-23;
        for (int64_t i = 0; i < d; ++i) {
          double expected = 0, magnitude = 0;
          for (int64_t j = 0; j < context; ++j) {
            expected += weights[j] / sum * value[j * d + i];
            magnitude += weights[j] / sum * std::abs(value[j * d + i]);
          }
          ASSERT_NEAR(out[i], expected, error * magnitude + 1e-9)
              << "token " << t << " head " << h << " dimension " << i;
        }
      }
    }
  }

 private:
  int64_t q_heads() const { return static_cast<int64_t>(heads_.to_kv.size()); }

  // Elements of all contexts, and what they are worth.
  void Fill(int32_t blocks) {
    k_.assign(blocks * view_.k_block_bytes(), std::byte{0xff});
    v_.assign(blocks * view_.v_block_bytes(), std::byte{0xff});
    std::mt19937 random(7);
    keys_.resize(contexts_.size());
    values_.resize(contexts_.size());
    for (size_t s = 0; s < contexts_.size(); ++s) {
      keys_[s].resize(view_.kv_heads);
      values_[s].resize(view_.kv_heads);
      for (int64_t h = 0; h < view_.kv_heads; ++h) {
        for (int32_t j = 0; j < contexts_[s]; ++j) {
          const int64_t block = tables_[s * kMaxBlocks + j / 16], position = j % 16;
          const auto make = [&](std::byte* run, float* scales, bool key, std::vector<double>& to) {
            // Scales as of heads with outliers.
            const float scale = std::ldexp(1.0f, static_cast<int>(random() % 8) - 11);
            if (view_.dtype == KvDType::kI8) scales[position] = scale;
            for (int64_t i = 0; i < view_.head_dim; ++i) {
              const int code = static_cast<int>(random() % 255) - 127;
              const int64_t index = key ? view_.k_index(i, position) : view_.v_index(position, i);
              to.push_back(Store(run, index, code, scale, key));
            }
          };
          make(KRun(block, h), KScales(block, h), true, keys_[s][h]);
          make(VRun(block, h), VScales(block, h), false, values_[s][h]);
        }
      }
    }
  }
  double Store(std::byte* run, int64_t index, int code, float scale, bool key) const {
    if (view_.dtype == KvDType::kI8) {
      run[index] = static_cast<std::byte>(key ? code + 128 : code);
      return static_cast<double>(code) * scale;
    }
    const float value = static_cast<float>(code) / 96;
    const bool bf16 = view_.dtype == KvDType::kBF16;
    const uint16_t bits = bf16 ? FloatToBf16(value) : FloatToF16(value);
    std::memcpy(run + 2 * index, &bits, 2);
    return bf16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
  std::byte* KRun(int64_t block, int64_t head) {
    return k_.data() + block * view_.k_block_bytes() + head * view_.k_head_bytes();
  }
  std::byte* VRun(int64_t block, int64_t head) {
    return v_.data() + block * view_.v_block_bytes() + head * view_.v_head_bytes();
  }
  float* KScales(int64_t block, int64_t head) {
    return reinterpret_cast<float*>(KRun(block, head) + view_.k_code_bytes());
  }
  float* VScales(int64_t block, int64_t head) {
    return reinterpret_cast<float*>(VRun(block, head) + view_.v_code_bytes());
  }

  const Heads heads_;
  std::unique_ptr<Backend> backend_;
  KvCacheView view_;
  std::vector<std::byte> k_, v_;
  std::vector<int32_t> positions_, sequences_, tables_, contexts_;
  std::vector<std::vector<std::vector<double>>> keys_, values_;  // [sequence][KV head]
  int64_t width_ = 0;
  std::vector<float> qkv_;
};

class CudaMatrixAttention : public ::testing::TestWithParam<KvDType> {
 protected:
  // With the first `singles` tokens said to be alone, and without.
  void Check(const Heads& heads, const std::vector<Chunk>& chunks, int64_t singles,
             size_t scratch_bytes = 1 << 20) {
    SCOPED_TRACE(::testing::Message()
                 << heads.to_kv.size() << " heads of " << heads.dim << " on " << heads.kv_heads());
    Problem problem(GetParam(), heads, chunks, scratch_bytes);
    problem.Check(problem.Run(singles));
    if (HasFatalFailure() || singles == 0) return;
    problem.Check(problem.Run(0));
  }
};

TEST_P(CudaMatrixAttention, DecodesContextsOfAnyLength) {
  const std::vector<Chunk> chunks = {{0}, {15}, {16}, {-1}, {62}, {63}, {128}, {320}};
  for (const Heads& heads : {Groups(2, 1, 64), Groups(1, 2, 32), Groups(2, 4, 128),
                             Groups(1, 8, 18), Groups(1, 20, 80), Groups(1, 7, 200)}) {
    Check(heads, chunks, 8);
    if (HasFatalFailure()) return;
  }
}

TEST_P(CudaMatrixAttention, PrefillsChunksBesideOthers) {
  // Tiles of rows that hold several sequences, begin or end inside one, and are not full.
  const std::vector<Chunk> chunks = {{131}, {0}, {250, 40}, {0, 5}, {31, 3}, {-1, 2}};
  for (const Heads& heads : {Groups(2, 1, 32), Groups(2, 2, 64), Groups(1, 4, 128),
                             Groups(1, 7, 80), Groups(1, 8, 256), Groups(1, 70, 8)}) {
    Check(heads, chunks, 2);
    if (HasFatalFailure()) return;
  }
}

TEST_P(CudaMatrixAttention, TakesUnevenGroups) {
  Check({.to_kv = {0, 1, 1, 1, 2, 2}, .dim = 64}, {{40}, {100, 30}}, 1);
}

TEST_P(CudaMatrixAttention, SharesContextsOnlyAsScratchAllows) {
  const std::vector<Chunk> chunks = {{300}, {310}, {290, 2}};
  for (const size_t scratch_bytes : {1 << 10, 16 << 10, 100 << 10}) {
    Check(Groups(1, 4, 64), chunks, 2, scratch_bytes);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, CudaMatrixAttention,
                         ::testing::Values(KvDType::kF16, KvDType::kBF16, KvDType::kI8),
                         [](const auto& info) { return std::string(KvDTypeName(info.param)); });

}  // namespace
}  // namespace tandem::kernels
