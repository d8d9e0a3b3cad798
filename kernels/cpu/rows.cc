// Row-wise operations: norms, activation, rotation with the KV write.
#include <algorithm>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/rows.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/target_table.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

void AddRmsNormRow(const float* HWY_RESTRICT delta, const float* HWY_RESTRICT delta_bias,
                   float* HWY_RESTRICT residual, const float* HWY_RESTRICT weight, float epsilon,
                   size_t hidden, float* HWY_RESTRICT out) {
  const F d;
  if (delta != nullptr) {
    size_t j = 0;
    for (; j + kWidth <= hidden; j += kWidth) {
      V v = hn::LoadU(d, delta + j);
      if (delta_bias != nullptr) v = hn::Add(v, hn::LoadU(d, delta_bias + j));
      hn::StoreU(hn::Add(hn::LoadU(d, residual + j), v), d, residual + j);
    }
    for (; j < hidden; ++j) {
      const float v = delta_bias != nullptr ? delta[j] + delta_bias[j] : delta[j];
      residual[j] += v;
    }
  }
  const float inverse = InverseRms(residual, hidden, epsilon);
  const V scale = hn::Set(d, inverse);
  size_t j = 0;
  for (; j + kWidth <= hidden; j += kWidth) {
    const V v = hn::Mul(hn::LoadU(d, residual + j), scale);
    hn::StoreU(hn::Mul(v, hn::LoadU(d, weight + j)), d, out + j);
  }
  for (; j < hidden; ++j) out[j] = residual[j] * inverse * weight[j];
}

void SiluMulRow(const float* HWY_RESTRICT gate, const float* HWY_RESTRICT up, size_t columns,
                float* HWY_RESTRICT out) {
  const F d;
  const V one = hn::Set(d, 1.0f);
  size_t j = 0;
  for (; j + kWidth <= columns; j += kWidth) {
    const V g = hn::LoadU(d, gate + j);
    const V silu = hn::Div(g, hn::Add(one, Exp(hn::Neg(g))));
    hn::StoreU(hn::Mul(silu, hn::LoadU(d, up + j)), d, out + j);
  }
  for (; j < columns; ++j) out[j] = gate[j] / (1.0f + ExpF32(-gate[j])) * up[j];
}

template <DType dtype>
void WidenTyped(const void* row, size_t columns, float* HWY_RESTRICT out) {
  const F d;
  const auto* in = static_cast<const typename Storage<dtype>::T*>(row);
  size_t j = 0;
  for (; j + kWidth <= columns; j += kWidth) hn::StoreU(LoadWide<dtype>(in + j), d, out + j);
  // The row may be unaligned: it lies in a mapped file.
  for (; j < columns; ++j) {
    if constexpr (dtype == DType::kF32) {
      std::memcpy(out + j, in + j, sizeof(float));
    } else {
      uint16_t bits;
      std::memcpy(&bits, in + j, sizeof(bits));
      out[j] = dtype == DType::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
    }
  }
}

void WidenRow(const void* row, DType dtype, size_t columns, float* HWY_RESTRICT out) {
  switch (dtype) {
    case DType::kF32:
      WidenTyped<DType::kF32>(row, columns, out);
      return;
    case DType::kF16:
      WidenTyped<DType::kF16>(row, columns, out);
      return;
    case DType::kBF16:
      WidenTyped<DType::kBF16>(row, columns, out);
      return;
  }
}

// RMSNorm (where norm is given) and rotation of one head in place.
HWY_INLINE void NormRotate(float* HWY_RESTRICT head, size_t head_dim,
                           const float* HWY_RESTRICT norm, float epsilon,
                           const float* HWY_RESTRICT cos, const float* HWY_RESTRICT sin) {
  const F d;
  if (norm != nullptr) {
    const float inverse = InverseRms(head, head_dim, epsilon);
    for (size_t i = 0; i < head_dim; ++i) head[i] = head[i] * inverse * norm[i];
  }
  const size_t half = head_dim / 2;
  size_t i = 0;
  for (; i + kWidth <= half; i += kWidth) {
    const V x1 = hn::LoadU(d, head + i);
    const V x2 = hn::LoadU(d, head + half + i);
    const V c = hn::LoadU(d, cos + i);
    const V s = hn::LoadU(d, sin + i);
    hn::StoreU(hn::MulAdd(x1, c, hn::Neg(hn::Mul(x2, s))), d, head + i);
    hn::StoreU(hn::MulAdd(x2, c, hn::Mul(x1, s)), d, head + half + i);
  }
  for (; i < half; ++i) {
    const float x1 = head[i];
    const float x2 = head[half + i];
    head[i] = __builtin_fmaf(x1, cos[i], -(x2 * sin[i]));
    head[half + i] = __builtin_fmaf(x2, cos[i], x1 * sin[i]);
  }
}

// Puts one head of one token into the cache, as 16- or 32-bit elements.
template <KvDType dtype>
HWY_INLINE void CacheElements(const KvCacheView& cache, std::byte* k_head, std::byte* v_head,
                              int64_t position, const float* HWY_RESTRICT k,
                              const float* HWY_RESTRICT v) {
  const int64_t d = cache.head_dim;
  if constexpr (dtype == KvDType::kF32) {
    auto* k_out = reinterpret_cast<float*>(k_head) + position;
    for (int64_t i = 0; i < d; ++i) k_out[i * 16] = k[i];
    std::memcpy(reinterpret_cast<float*>(v_head) + position * cache.v_stride(), v,
                d * sizeof(float));
  } else if constexpr (dtype == KvDType::kF16) {
    auto* k_out = reinterpret_cast<uint16_t*>(k_head) + position;
    auto* v_out = reinterpret_cast<uint16_t*>(v_head) + position * cache.v_stride();
    for (int64_t i = 0; i < d; ++i) {
      k_out[i * 16] = FloatToF16(k[i]);
      v_out[i] = FloatToF16(v[i]);
    }
  } else {
    auto* k_out = reinterpret_cast<uint32_t*>(k_head) + position;
    auto* v_out =
        reinterpret_cast<uint16_t*>(v_head) + position / 2 * cache.v_stride() * 2 + position % 2;
    for (int64_t i = 0; i < d; i += 2) {
      const uint32_t even = FloatToBf16(k[i]);
      const uint32_t odd = FloatToBf16(k[i + 1]);
      k_out[i / 2 * 16] = even | odd << 16;
    }
    for (int64_t i = 0; i < d; ++i) v_out[i * 2] = FloatToBf16(v[i]);
  }
}

HWY_INLINE CodeScale ScaleOf(const float* HWY_RESTRICT x, int64_t n) {
  int32_t most = 0;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, MagnitudeBits(x[i]));
  return MakeCodeScale(most, kKvCodeMax);
}

HWY_INLINE void CacheCodes(const KvCacheView& cache, int64_t block, int64_t head, int64_t position,
                           const float* HWY_RESTRICT k, const float* HWY_RESTRICT v) {
  const int64_t d = cache.head_dim;
  const CodeScale k_scale = ScaleOf(k, d);
  const CodeScale v_scale = ScaleOf(v, d);
  cache.k_scales(block, head)[position] = k_scale.scale;
  cache.v_scales(block, head)[position] = v_scale.scale;
  auto* k_out = reinterpret_cast<uint8_t*>(cache.k_head(block, head)) + position * 4;
  auto* v_out = reinterpret_cast<int8_t*>(cache.v_head(block, head)) +
                position / 4 * cache.v_stride() * 4 + position % 4;
  for (int64_t i = 0; i < d; ++i) {
    const int32_t code = ToCode(k[i], k_scale.inverse, kKvCodeMax) + 128;
    k_out[i / 4 * 64 + i % 4] = static_cast<uint8_t>(code);
  }
  for (int64_t i = 0; i < d; ++i) {
    v_out[i * 4] = static_cast<int8_t>(ToCode(v[i], v_scale.inverse, kKvCodeMax));
  }
}

void RopeAndCacheToken(const RopeAndCacheArgs& a, int64_t token) {
  const size_t d = static_cast<size_t>(a.head_dim);
  const int64_t kv_heads = a.cache.kv_heads;
  float* row = a.qkv + token * (a.q_heads + 2 * kv_heads) * a.head_dim;
  const float* cos = a.cos + token * (a.head_dim / 2);
  const float* sin = a.sin + token * (a.head_dim / 2);
  for (int64_t h = 0; h < a.q_heads; ++h) {
    NormRotate(row + h * a.head_dim, d, a.q_norm, a.norm_epsilon, cos, sin);
  }
  const int64_t block = a.slot_mapping[token] / 16;
  const int64_t position = a.slot_mapping[token] % 16;
  for (int64_t h = 0; h < kv_heads; ++h) {
    float* k = row + (a.q_heads + h) * a.head_dim;
    const float* v = row + (a.q_heads + kv_heads + h) * a.head_dim;
    NormRotate(k, d, a.k_norm, a.norm_epsilon, cos, sin);
    std::byte* k_head = a.cache.k_head(block, h);
    std::byte* v_head = a.cache.v_head(block, h);
    switch (a.cache.dtype) {
      case KvDType::kF32:
        CacheElements<KvDType::kF32>(a.cache, k_head, v_head, position, k, v);
        break;
      case KvDType::kF16:
        CacheElements<KvDType::kF16>(a.cache, k_head, v_head, position, k, v);
        break;
      case KvDType::kBF16:
        CacheElements<KvDType::kBF16>(a.cache, k_head, v_head, position, k, v);
        break;
      case KvDType::kI8:
        CacheCodes(a.cache, block, h, position, k, v);
        break;
    }
  }
}

cpu::RowKernels RowKernelsHere() {
  return {&AddRmsNormRow, &SiluMulRow, &WidenRow, &RopeAndCacheToken};
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(RowKernelsHere);

namespace cpu {

RowKernels RowKernelsOf(int64_t target) { return TANDEM_FOR_TARGET(RowKernelsHere, target)(); }

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
