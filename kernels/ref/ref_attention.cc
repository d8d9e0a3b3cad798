#include "kernels/ref/ref_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/math.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kLanes = 16;  // logical lanes of a reduction
constexpr int64_t kBlock = KvCacheView::kBlock;
constexpr int64_t kPartition = 256;

float FoldLanes(float* lanes) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

void NormRotate(float* head, const float* norm, const RopeAndCacheArgs& a, const float* cos,
                const float* sin) {
  const int64_t d = a.head_dim;
  if (norm != nullptr) {
    float lanes[kLanes] = {};
    for (int64_t i = 0; i < d; ++i) {
      lanes[i % kLanes] = std::fma(head[i], head[i], lanes[i % kLanes]);
    }
    const float mean = FoldLanes(lanes) / static_cast<float>(d);
    const float inverse = 1.0f / std::sqrt(mean + a.norm_epsilon);
    for (int64_t i = 0; i < d; ++i) head[i] = head[i] * inverse * norm[i];
  }
  for (int64_t i = 0; i < d / 2; ++i) {
    const float x1 = head[i];
    const float x2 = head[i + d / 2];
    head[i] = std::fma(x1, cos[i], -(x2 * sin[i]));
    head[i + d / 2] = std::fma(x2, cos[i], x1 * sin[i]);
  }
}

// A cached element as fp32.
float Load(const std::byte* run, KvDType dtype, int64_t index) {
  switch (dtype) {
    case KvDType::kF32:
      return reinterpret_cast<const float*>(run)[index];
    case KvDType::kF16:
      return F16ToFloat(reinterpret_cast<const uint16_t*>(run)[index]);
    case KvDType::kBF16:
      return Bf16ToFloat(reinterpret_cast<const uint16_t*>(run)[index]);
    case KvDType::kI8:
      break;
  }
  TANDEM_CHECK(false);
  return 0;
}

void Store(std::byte* run, KvDType dtype, int64_t index, float value) {
  switch (dtype) {
    case KvDType::kF32:
      reinterpret_cast<float*>(run)[index] = value;
      return;
    case KvDType::kF16:
      reinterpret_cast<uint16_t*>(run)[index] = FloatToF16(value);
      return;
    case KvDType::kBF16:
      reinterpret_cast<uint16_t*>(run)[index] = FloatToBf16(value);
      return;
    case KvDType::kI8:
      break;
  }
  TANDEM_CHECK(false);
}

CodeScale ScaleOf(std::span<const float> values, float largest_code) {
  int32_t most = 0;
  for (float value : values) most = std::max(most, MagnitudeBits(value));
  return MakeCodeScale(most, largest_code);
}

std::vector<int32_t> Codes(std::span<const float> values, const CodeScale& scale,
                           float largest_code) {
  std::vector<int32_t> codes;
  for (float value : values) codes.push_back(ToCode(value, scale.inverse, largest_code));
  return codes;
}

void CacheHead(const KvCacheView& cache, int64_t block, int64_t position, int64_t head,
               const float* k, const float* v) {
  const int64_t d = cache.head_dim;
  std::byte* k_head = cache.k_head(block, head);
  std::byte* v_head = cache.v_head(block, head);
  if (cache.dtype != KvDType::kI8) {
    for (int64_t i = 0; i < d; ++i) {
      Store(k_head, cache.dtype, cache.k_index(i, position), k[i]);
      Store(v_head, cache.dtype, cache.v_index(position, i), v[i]);
    }
    return;
  }
  const CodeScale k_scale = ScaleOf({k, static_cast<size_t>(d)}, kKvCodeMax);
  const CodeScale v_scale = ScaleOf({v, static_cast<size_t>(d)}, kKvCodeMax);
  cache.k_scales(block, head)[position] = k_scale.scale;
  cache.v_scales(block, head)[position] = v_scale.scale;
  for (int64_t i = 0; i < d; ++i) {
    reinterpret_cast<uint8_t*>(k_head)[cache.k_index(i, position)] =
        static_cast<uint8_t>(ToCode(k[i], k_scale.inverse, kKvCodeMax) + 128);
    reinterpret_cast<int8_t*>(v_head)[cache.v_index(position, i)] =
        static_cast<int8_t>(ToCode(v[i], v_scale.inverse, kKvCodeMax));
  }
}

// Attention of one (token, head) over one partition, [begin, begin + n).
class Partition {
 public:
  Partition(const KvCacheView& cache, int64_t kv_head, const int32_t* table, int64_t begin,
            int64_t n)
      : cache_(cache), kv_head_(kv_head), table_(table), begin_(begin), n_(n) {}

  // scores[j] of q, which is scaled.
  void Scores(const std::vector<float>& q, std::vector<float>& scores) const {
    const int64_t d = cache_.head_dim;
    if (cache_.dtype == KvDType::kI8) {
      const CodeScale scale = ScaleOf(q, kQueryCodeMax);
      const std::vector<int32_t> codes = Codes(q, scale, kQueryCodeMax);
      for (int64_t j = 0; j < n_; ++j) {
        const auto* run = reinterpret_cast<const uint8_t*>(cache_.k_head(Block(j), kv_head_));
        int32_t dot = 0;
        for (int64_t i = 0; i < d; ++i) {
          dot += codes[i] * (run[cache_.k_index(i, j % kBlock)] - 128);
        }
        scores[j] = static_cast<float>(dot) *
                    (scale.scale * cache_.k_scales(Block(j), kv_head_)[j % kBlock]);
      }
      return;
    }
    for (int64_t j = 0; j < n_; ++j) {
      const std::byte* run = cache_.k_head(Block(j), kv_head_);
      const auto key = [&](int64_t i) {
        return Load(run, cache_.dtype, cache_.k_index(i, j % kBlock));
      };
      float dot = 0;
      if (cache_.dtype == KvDType::kBF16) {
        for (int64_t i = 0; i < d; i += 2) {
          dot = MulAddFlushed(RoundBf16(q[i + 1]), key(i + 1), dot);
          dot = MulAddFlushed(RoundBf16(q[i]), key(i), dot);
        }
      } else {
        for (int64_t i = 0; i < d; ++i) dot = std::fma(q[i], key(i), dot);
      }
      scores[j] = dot;
    }
  }

  // Turns scores into exponentials relative to max and values into their sum over
  // V; returns the exponentials' sum.
  float Values(std::vector<float>& scores, float max, std::vector<float>& values) const {
    float lanes[kLanes] = {};
    for (int64_t j = 0; j < n_; ++j) {
      scores[j] = ExpF32(scores[j] - max);
      if (cache_.dtype == KvDType::kBF16) scores[j] = RoundBf16(scores[j]);
      lanes[j % kLanes] += scores[j];
    }
    std::fill(values.begin(), values.end(), 0.0f);
    const int64_t d = cache_.head_dim;
    if (cache_.dtype == KvDType::kI8) {
      std::vector<float> weights(n_);
      for (int64_t j = 0; j < n_; ++j) {
        weights[j] = scores[j] * cache_.v_scales(Block(j), kv_head_)[j % kBlock];
      }
      const CodeScale scale = ScaleOf(weights, kWeightCodeMax);
      const std::vector<int32_t> codes = Codes(weights, scale, kWeightCodeMax);
      for (int64_t i = 0; i < d; ++i) {
        int32_t dot = 0;
        for (int64_t j = 0; j < n_; ++j) {
          const auto* run = reinterpret_cast<const int8_t*>(cache_.v_head(Block(j), kv_head_));
          dot += codes[j] * run[cache_.v_index(j % kBlock, i)];
        }
        values[i] = static_cast<float>(dot) * scale.scale;
      }
      return FoldLanes(lanes);
    }
    const auto value = [&](int64_t j, int64_t i) {
      return Load(cache_.v_head(Block(j), kv_head_), cache_.dtype, cache_.v_index(j % kBlock, i));
    };
    for (int64_t i = 0; i < d; ++i) {
      if (cache_.dtype == KvDType::kBF16) {
        for (int64_t j = 0; j < n_; j += 2) {
          if (j + 1 < n_) values[i] = MulAddFlushed(scores[j + 1], value(j + 1, i), values[i]);
          values[i] = MulAddFlushed(scores[j], value(j, i), values[i]);
        }
      } else {
        for (int64_t j = 0; j < n_; ++j) values[i] = std::fma(scores[j], value(j, i), values[i]);
      }
    }
    return FoldLanes(lanes);
  }

 private:
  static float RoundBf16(float value) { return Bf16ToFloat(FloatToBf16(value)); }
  int64_t Block(int64_t j) const { return table_[(begin_ + j) / kBlock]; }

  const KvCacheView& cache_;
  const int64_t kv_head_;
  const int32_t* const table_;
  const int64_t begin_;
  const int64_t n_;
};

void Attend(const PagedAttentionArgs& a, int64_t token, int64_t head) {
  const int64_t d = a.head_dim;
  std::vector<float> q(d), scores(kPartition), values(d), total(d);
  for (int64_t i = 0; i < d; ++i) q[i] = a.qkv[token * a.qkv_stride + head * d + i] * a.scale;
  const int32_t* table = a.block_tables + a.token_sequence[token] * a.max_blocks;
  const int64_t context = a.positions[token] + 1;
  float total_max = 0, total_sum = 0;
  for (int64_t begin = 0; begin < context; begin += kPartition) {
    const int64_t n = std::min(kPartition, context - begin);
    const Partition partition(a.cache, a.head_to_kv[head], table, begin, n);
    partition.Scores(q, scores);
    const float max = *std::max_element(scores.begin(), scores.begin() + n);
    const float sum = partition.Values(scores, max, values);
    if (begin == 0) {
      total_max = max;
      total_sum = sum;
      total = values;
      continue;
    }
    const float joint = std::max(total_max, max);
    const float old_weight = ExpF32(total_max - joint);
    const float new_weight = ExpF32(max - joint);
    total_sum = std::fma(sum, new_weight, total_sum * old_weight);
    for (int64_t i = 0; i < d; ++i) {
      total[i] = std::fma(values[i], new_weight, total[i] * old_weight);
    }
    total_max = joint;
  }
  float* out = a.out + (token * a.q_heads + head) * d;
  for (int64_t i = 0; i < d; ++i) out[i] = total[i] / total_sum;
}

}  // namespace

void RefRopeAndCache(const RopeAndCacheArgs& a) {
  const int64_t d = a.head_dim;
  const int64_t kv_heads = a.cache.kv_heads;
  for (int64_t t = 0; t < a.tokens; ++t) {
    float* row = a.qkv + t * (a.q_heads + 2 * kv_heads) * d;
    const float* cos = a.cos + t * (d / 2);
    const float* sin = a.sin + t * (d / 2);
    for (int64_t h = 0; h < a.q_heads; ++h) NormRotate(row + h * d, a.q_norm, a, cos, sin);
    for (int64_t h = 0; h < kv_heads; ++h) {
      float* k = row + (a.q_heads + h) * d;
      NormRotate(k, a.k_norm, a, cos, sin);
      CacheHead(a.cache, a.slot_mapping[t] / kBlock, a.slot_mapping[t] % kBlock, h, k,
                row + (a.q_heads + kv_heads + h) * d);
    }
  }
}

void RefPagedAttention(const PagedAttentionArgs& a) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int64_t h = 0; h < a.q_heads; ++h) Attend(a, t, h);
  }
}

}  // namespace tandem::kernels
