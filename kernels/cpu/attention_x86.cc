// Attention's dot products with the instructions of AVX512-BF16 and AVX512-VNNI, which
// Highway 1.0.3 does not know.
#include <immintrin.h>

#include "hwy/highway.h"
#include "kernels/cpu/attention.h"

#define TANDEM_AVX512 "avx,avx2,fma,f16c,bmi,bmi2,avx512f,avx512vl,avx512dq,avx512bw"

HWY_PUSH_ATTRIBUTES(TANDEM_AVX512 ",avx512bf16")
#define TANDEM_TILE_NAMESPACE attention_bf16
#include "kernels/cpu/attention_tile-inl.h"
#undef TANDEM_TILE_NAMESPACE
namespace tandem::kernels::attention_bf16 {
namespace {

struct Bf16DotOps {
  static constexpr size_t kPack = 2;
  static constexpr size_t kPackedBytes = 64;
  static constexpr size_t kScalarBytes = 4;
  static constexpr bool kIntegers = false;
  static constexpr size_t kRows = 8;
  static constexpr size_t kVectors = 2;
  static constexpr size_t kFewVectors = 4;
  using Packed = __m512i;
  using Scalar = __m512i;
  using Acc = __m512;

  static HWY_INLINE Acc Zero() { return _mm512_setzero_ps(); }
  static HWY_INLINE Packed Load(const std::byte* from) { return _mm512_loadu_si512(from); }
  static HWY_INLINE Packed LoadFirst(const std::byte* from) {
    return _mm512_and_si512(Load(from), _mm512_set1_epi32(0xffff));
  }
  static HWY_INLINE Scalar Broadcast(const std::byte* from) {
    return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(from));
  }
  static HWY_INLINE void MulAdd(Scalar x, const Packed& y, Acc& sum) {
    sum = _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)y);
  }
  static HWY_INLINE void Finish(const Acc& sum, const cpu::CodeTerms&, const float*, float* to) {
    _mm512_storeu_ps(to, sum);
  }
};

}  // namespace
}  // namespace tandem::kernels::attention_bf16
HWY_POP_ATTRIBUTES

HWY_PUSH_ATTRIBUTES(TANDEM_AVX512 ",avx512vnni")
#define TANDEM_TILE_NAMESPACE attention_vnni
#include "kernels/cpu/attention_tile-inl.h"
#undef TANDEM_TILE_NAMESPACE
namespace tandem::kernels::attention_vnni {
namespace {

// Codes of 16 bits as two bytes, high and low, that are multiplied separately. The instruction
// takes an unsigned and a signed factor: K's codes are unsigned (plus 128) and a query's bytes
// signed; weights' bytes are unsigned and V's codes signed.
template <bool kKeys>
struct CodeDotOps {
  static constexpr size_t kPack = 4;
  static constexpr size_t kPackedBytes = 64;
  static constexpr size_t kScalarBytes = 8;
  static constexpr bool kIntegers = true;
  static constexpr size_t kRows = 4;
  static constexpr size_t kVectors = 2;
  static constexpr size_t kFewVectors = 4;
  using Packed = __m512i;
  struct Scalar {
    __m512i high, low;
  };
  struct Acc {
    __m512i high, low;
  };

  static HWY_INLINE Acc Zero() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  static HWY_INLINE Packed Load(const std::byte* from) { return _mm512_loadu_si512(from); }
  static HWY_INLINE Scalar Broadcast(const std::byte* from) {
    const auto* p = reinterpret_cast<const int32_t*>(from);
    return {_mm512_set1_epi32(p[0]), _mm512_set1_epi32(p[1])};
  }
  static HWY_INLINE void MulAdd(const Scalar& x, const Packed& y, Acc& sum) {
    if constexpr (kKeys) {
      sum.high = _mm512_dpbusd_epi32(sum.high, y, x.high);
      sum.low = _mm512_dpbusd_epi32(sum.low, y, x.low);
    } else {
      sum.high = _mm512_dpbusd_epi32(sum.high, x.high, y);
      sum.low = _mm512_dpbusd_epi32(sum.low, x.low, y);
    }
  }
  static HWY_INLINE void Finish(const Acc& sum, const cpu::CodeTerms& row, const float* lane_scales,
                                float* to) {
    __m512i dot = _mm512_add_epi32(_mm512_slli_epi32(sum.high, 8), sum.low);
    __m512 scale = _mm512_set1_ps(row.scale);
    if constexpr (kKeys) {
      dot = _mm512_sub_epi32(dot, _mm512_set1_epi32(128 * row.sum));
      scale = _mm512_mul_ps(scale, _mm512_loadu_ps(lane_scales));
    }
    _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale));
  }
};

// Four 16-bit codes become their four high bytes and their four low bytes.
// code = 256 * high + low; of queries both are signed, of weights unsigned.
void SplitCodes(std::byte* codes, size_t bytes, bool queries) {
  const __m512i order = _mm512_set_epi64(0x0e0c0a080f0d0b09, 0x0604020007050301,  //
                                         0x0e0c0a080f0d0b09, 0x0604020007050301,  //
                                         0x0e0c0a080f0d0b09, 0x0604020007050301,  //
                                         0x0e0c0a080f0d0b09, 0x0604020007050301);
  const __m512i carry = _mm512_set1_epi16(queries ? 128 : 0);
  for (size_t i = 0; i < bytes; i += 64) {
    const size_t left = bytes - i;
    const __mmask64 mask = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    const __m512i code = _mm512_maskz_loadu_epi8(mask, codes + i);
    const __m512i high = _mm512_add_epi16(code, carry);
    const __m512i both = _mm512_mask_blend_epi8(0x5555555555555555, high, code);
    _mm512_mask_storeu_epi8(codes + i, mask, _mm512_shuffle_epi8(both, order));
  }
}

}  // namespace
}  // namespace tandem::kernels::attention_vnni
HWY_POP_ATTRIBUTES

namespace tandem::kernels::cpu {

void UseDotInstructions(DotInstructions use, DotKernels& kernels) {
  if (use.bf16) {
    using attention_bf16::AllRows;
    using attention_bf16::Bf16DotOps;
    kernels[static_cast<int>(KvDType::kBF16)] = {&AllRows<Bf16DotOps, true>,
                                                 &AllRows<Bf16DotOps, false>};
  }
  if (use.vnni) {
    using attention_vnni::AllRows;
    using attention_vnni::CodeDotOps;
    kernels[static_cast<int>(KvDType::kI8)] = {&AllRows<CodeDotOps<true>, true>,
                                               &AllRows<CodeDotOps<false>, false>,
                                               &attention_vnni::SplitCodes};
  }
}

}  // namespace tandem::kernels::cpu
