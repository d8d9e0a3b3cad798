// kernels/base/math.h in SIMD: the same operations in the same order, so each lane has the scalar's
// bits. Compiled once for every target, with the include guard that Highway's foreach_target needs.
#if defined(TANDEM_VECTOR_MATH_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef TANDEM_VECTOR_MATH_INL
#undef TANDEM_VECTOR_MATH_INL
#else
#define TANDEM_VECTOR_MATH_INL
#endif

#include "hwy/highway.h"
#include "kernels/base/dtype.h"
#include "kernels/base/math.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Logical lanes of every reduction and of a weight panel's group.
inline constexpr size_t kLanes = 16;

// A real vector of at most 16 floats; kGroup of them make 16 lanes.
using F = hn::CappedTag<float, kLanes>;
using V = hn::Vec<F>;
inline constexpr size_t kWidth = HWY_MIN(HWY_LANES(float), kLanes);
inline constexpr size_t kGroup = kLanes / kWidth;

// Storage types of the three element formats.
template <DType>
struct Storage;
template <>
struct Storage<DType::kF32> {
  using T = float;
};
template <>
struct Storage<DType::kF16> {
  using T = hwy::float16_t;
};
template <>
struct Storage<DType::kBF16> {
  using T = hwy::bfloat16_t;
};

// kWidth elements widened to fp32; p is aligned to the vector or not.
template <DType dtype>
HWY_INLINE V LoadWide(const typename Storage<dtype>::T* HWY_RESTRICT p) {
  const F d;
  if constexpr (dtype == DType::kF32) {
    return hn::LoadU(d, p);
  } else {
    const hn::Rebind<typename Storage<dtype>::T, F> half;
    return hn::PromoteTo(d, hn::LoadU(half, p));
  }
}

// To nearest even as FloatToBf16 does; each lane has the bits in its low half.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<F>> RoundBf16(V x) {
  const hn::RebindToUnsigned<F> du;
  const auto bits = hn::BitCast(du, x);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))));
  const auto is_nan = hn::RebindMask(du, hn::Ne(x, x));
  return hn::IfThenElse(is_nan, hn::Or(upper, hn::Set(du, 0x40u)), rounded);
}

// Stores what RoundBf16 gave as 16 bits a lane.
HWY_INLINE void StoreHalves(hn::Vec<hn::RebindToUnsigned<F>> bits, uint16_t* to) {
  const hn::Rebind<uint16_t, F> half;
  // Values fit 16 bits: saturation never happens.
  hn::StoreU(hn::DemoteTo(half, hn::BitCast(hn::RebindToSigned<F>(), bits)), half, to);
}

// exp; of a NaN a NaN. Min drops it on NEON, and on x86 where it is the first operand. What is
// below kExpMin may become anything on the way, and is 0 in the end.
HWY_INLINE V Exp(V x) {
  const F d;
  const hn::RebindToSigned<F> di;
  const auto underflow = hn::Lt(x, hn::Set(d, kExpMin));
  const V most = hn::Set(d, kExpMax);
  const V clamped = HWY_ARCH_X86 ? hn::Min(most, x) : hn::IfThenElse(hn::Gt(x, most), most, x);
  const V shifted = hn::MulAdd(clamped, hn::Set(d, kLog2E), hn::Set(d, kRoundMagic));
  const V n = hn::Sub(shifted, hn::Set(d, kRoundMagic));
  V r = hn::NegMulAdd(n, hn::Set(d, kLn2High), clamped);
  r = hn::NegMulAdd(n, hn::Set(d, kLn2Low), r);
  V p = hn::Set(d, kExpCoefficients[0]);
  for (int i = 1; i < 8; ++i) p = hn::MulAdd(p, r, hn::Set(d, kExpCoefficients[i]));
  const auto bits = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, n), hn::Set(di, 127)));
  return hn::IfThenZeroElse(underflow, hn::Mul(p, hn::BitCast(d, bits)));
}

// Folds 16 lanes 8, 4, 2, 1.
HWY_INLINE float FoldLanes(const float* HWY_RESTRICT lanes) {
  float folded[kLanes];
  for (size_t i = 0; i < kLanes; ++i) folded[i] = lanes[i];
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t i = 0; i < width; ++i) folded[i] += folded[i + width];
  }
  return folded[0];
}

// 1 / sqrt(mean of squares + epsilon), column j in lane j mod 16.
HWY_INLINE float InverseRms(const float* HWY_RESTRICT x, size_t n, float epsilon) {
  const F d;
  V sums[kGroup];
  for (size_t g = 0; g < kGroup; ++g) sums[g] = hn::Zero(d);
  size_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    for (size_t g = 0; g < kGroup; ++g) {
      const V v = hn::LoadU(d, x + j + g * kWidth);
      sums[g] = hn::MulAdd(v, v, sums[g]);
    }
  }
  alignas(64) float lanes[kLanes];
  for (size_t g = 0; g < kGroup; ++g) hn::Store(sums[g], d, lanes + g * kWidth);
  for (; j < n; ++j) lanes[j % kLanes] = __builtin_fmaf(x[j], x[j], lanes[j % kLanes]);
  const float mean = FoldLanes(lanes) / static_cast<float>(n);
  return 1.0f / __builtin_sqrtf(mean + epsilon);
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
