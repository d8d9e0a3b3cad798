// Paged attention. The query heads that share a KV head are taken together, so
// that each K and V element is read and widened once for all of them.
#include <algorithm>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/vector_math-inl.h"

#ifndef TANDEM_ATTENTION_CUT
#define TANDEM_ATTENTION_CUT
namespace tandem::kernels::cpu {
inline constexpr int64_t kCut = 256;     // positions between fixed cuts
inline constexpr int64_t kMaxGroup = 4;  // query heads taken together
}  // namespace tandem::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

// scores[h * kCut + 0..15] = dot products of kHeads scaled queries with the 16
// positions of one block, columns in order.
template <DType dtype, size_t kHeads>
HWY_INLINE void ScoreBlock(const typename Storage<dtype>::T* HWY_RESTRICT k, size_t head_dim,
                           const float* HWY_RESTRICT q, float* HWY_RESTRICT scores) {
  const F d;
  V acc[kHeads][kGroup];
  for (size_t h = 0; h < kHeads; ++h) {
    for (size_t g = 0; g < kGroup; ++g) acc[h][g] = hn::Zero(d);
  }
  for (size_t i = 0; i < head_dim; ++i) {
    V key[kGroup];
    for (size_t g = 0; g < kGroup; ++g) key[g] = LoadWide<dtype>(k + i * kLanes + g * kWidth);
    for (size_t h = 0; h < kHeads; ++h) {
      const V query = hn::Set(d, q[h * head_dim + i]);
      for (size_t g = 0; g < kGroup; ++g) acc[h][g] = hn::MulAdd(query, key[g], acc[h][g]);
    }
  }
  for (size_t h = 0; h < kHeads; ++h) {
    for (size_t g = 0; g < kGroup; ++g) {
      hn::StoreU(acc[h][g], d, scores + h * cpu::kCut + g * kWidth);
    }
  }
}

// cut[h * stride + i] += p * v over the first `positions` positions of a block.
template <DType dtype, size_t kHeads>
HWY_INLINE void AddValues(const typename Storage<dtype>::T* HWY_RESTRICT v, size_t stride,
                          size_t positions, const float* HWY_RESTRICT p, float* HWY_RESTRICT cut) {
  const F d;
  for (size_t i = 0; i < stride; i += kLanes) {
    V acc[kHeads][kGroup];
    for (size_t h = 0; h < kHeads; ++h) {
      for (size_t g = 0; g < kGroup; ++g) {
        acc[h][g] = hn::LoadU(d, cut + h * stride + i + g * kWidth);
      }
    }
    for (size_t j = 0; j < positions; ++j) {
      V value[kGroup];
      for (size_t g = 0; g < kGroup; ++g)
        value[g] = LoadWide<dtype>(v + j * stride + i + g * kWidth);
      for (size_t h = 0; h < kHeads; ++h) {
        const V weight = hn::Set(d, p[h * cpu::kCut + j]);
        for (size_t g = 0; g < kGroup; ++g) acc[h][g] = hn::MulAdd(weight, value[g], acc[h][g]);
      }
    }
    for (size_t h = 0; h < kHeads; ++h) {
      for (size_t g = 0; g < kGroup; ++g) {
        hn::StoreU(acc[h][g], d, cut + h * stride + i + g * kWidth);
      }
    }
  }
}

// Turns n scores into exponentials relative to their maximum; returns maximum
// and the sum in 16 lanes. Slots from n to the next multiple of 16 become 0.
HWY_INLINE float Exponentials(float* HWY_RESTRICT scores, size_t n, float& max_out) {
  const F d;
  const size_t padded = (n + kLanes - 1) / kLanes * kLanes;
  float max = -std::numeric_limits<float>::infinity();
  for (size_t j = 0; j < n; ++j) max = std::max(max, scores[j]);
  for (size_t j = n; j < padded; ++j) scores[j] = -std::numeric_limits<float>::infinity();
  V sums[kGroup];
  for (size_t g = 0; g < kGroup; ++g) sums[g] = hn::Zero(d);
  const V top = hn::Set(d, max);
  for (size_t j = 0; j < padded; j += kLanes) {
    for (size_t g = 0; g < kGroup; ++g) {
      float* s = scores + j + g * kWidth;
      const V p = Exp(hn::Sub(hn::LoadU(d, s), top));
      hn::StoreU(p, d, s);
      sums[g] = hn::Add(sums[g], p);
    }
  }
  alignas(64) float lanes[kLanes];
  for (size_t g = 0; g < kGroup; ++g) hn::Store(sums[g], d, lanes + g * kWidth);
  max_out = max;
  return FoldLanes(lanes);
}

template <DType dtype, size_t kHeads>
void AttendHeads(const PagedAttentionArgs& a, int64_t token, int64_t head,
                 float* HWY_RESTRICT scratch) {
  using T = typename Storage<dtype>::T;
  const size_t head_dim = static_cast<size_t>(a.head_dim);
  const size_t stride = static_cast<size_t>(a.cache.v_stride());
  float* q = scratch;                        // [kHeads, head_dim]
  float* scores = q + kHeads * head_dim;     // [kHeads, kCut]
  float* cut = scores + kHeads * cpu::kCut;  // [kHeads, stride]
  float* total = cut + kHeads * stride;      // [kHeads, stride]
  const float* q_in = a.qkv + token * a.qkv_stride + head * a.head_dim;
  for (size_t i = 0; i < kHeads * head_dim; ++i) q[i] = q_in[i] * a.scale;

  const int64_t kv_head = a.head_to_kv[head];
  const int32_t* table = a.block_tables + a.token_sequence[token] * a.max_blocks;
  const int64_t context = a.positions[token] + 1;
  const T* k_base = static_cast<const T*>(a.cache.k) + kv_head * a.head_dim * 16;
  const T* v_base = static_cast<const T*>(a.cache.v) + kv_head * 16 * a.cache.v_stride();
  float total_max[kHeads] = {}, total_sum[kHeads] = {};
  for (int64_t begin = 0; begin < context; begin += cpu::kCut) {
    const int64_t n = std::min(cpu::kCut, context - begin);
    for (int64_t j = 0; j < n; j += 16) {
      const T* k = k_base + table[(begin + j) / 16] * a.cache.k_block_elements();
      ScoreBlock<dtype, kHeads>(k, head_dim, q, scores + j);
    }
    float max[kHeads], sum[kHeads];
    for (size_t h = 0; h < kHeads; ++h) {
      sum[h] = Exponentials(scores + h * cpu::kCut, static_cast<size_t>(n), max[h]);
    }
    std::memset(cut, 0, kHeads * stride * sizeof(float));
    for (int64_t j = 0; j < n; j += 16) {
      const T* v = v_base + table[(begin + j) / 16] * a.cache.v_block_elements();
      AddValues<dtype, kHeads>(v, stride, static_cast<size_t>(std::min<int64_t>(16, n - j)),
                               scores + j, cut);
    }
    for (size_t h = 0; h < kHeads; ++h) {
      float* to = total + h * stride;
      const float* from = cut + h * stride;
      if (begin == 0) {
        total_max[h] = max[h];
        total_sum[h] = sum[h];
        std::memcpy(to, from, stride * sizeof(float));
        continue;
      }
      const float joint = std::max(total_max[h], max[h]);
      const float old_weight = ExpF32(total_max[h] - joint);
      const float new_weight = ExpF32(max[h] - joint);
      total_sum[h] = __builtin_fmaf(sum[h], new_weight, total_sum[h] * old_weight);
      const F d;
      const V w_old = hn::Set(d, old_weight);
      const V w_new = hn::Set(d, new_weight);
      for (size_t i = 0; i < stride; i += kWidth) {
        const V old = hn::Mul(hn::LoadU(d, to + i), w_old);
        hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), w_new, old), d, to + i);
      }
      total_max[h] = joint;
    }
  }
  for (size_t h = 0; h < kHeads; ++h) {
    float* out = a.out + (token * a.q_heads + head + h) * a.head_dim;
    for (size_t i = 0; i < head_dim; ++i) out[i] = total[h * stride + i] / total_sum[h];
  }
}

template <DType dtype>
void AttendTyped(const PagedAttentionArgs& a, int64_t token, int64_t head, int64_t head_end,
                 float* scratch) {
  for (; head + 4 <= head_end; head += 4) AttendHeads<dtype, 4>(a, token, head, scratch);
  for (; head + 2 <= head_end; head += 2) AttendHeads<dtype, 2>(a, token, head, scratch);
  if (head < head_end) AttendHeads<dtype, 1>(a, token, head, scratch);
}

void AttendTokenTarget(const PagedAttentionArgs& a, int64_t token, int64_t head_begin,
                       int64_t head_end, float* scratch) {
  switch (a.cache.dtype) {
    case DType::kF32:
      AttendTyped<DType::kF32>(a, token, head_begin, head_end, scratch);
      return;
    case DType::kF16:
      AttendTyped<DType::kF16>(a, token, head_begin, head_end, scratch);
      return;
    case DType::kBF16:
      AttendTyped<DType::kBF16>(a, token, head_begin, head_end, scratch);
      return;
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(AttendTokenTarget);

namespace cpu {

size_t AttentionScratchFloats(const PagedAttentionArgs& a) {
  return kMaxGroup * (a.head_dim + kCut + 2 * a.cache.v_stride());
}

void AttendToken(const PagedAttentionArgs& args, int64_t token, int64_t head_begin,
                 int64_t head_end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(AttendTokenTarget)(args, token, head_begin, head_end, scratch);
}

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
