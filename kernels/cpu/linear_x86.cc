// Linear products with the dot-product instructions of x86 that Highway 1.0.3
// does not know: AVX512-VNNI for integers, AVX512-BF16 for bfloat16 pairs.
// linear_loops-inl.h has the loops.
#include <cpuid.h>
#include <immintrin.h>

#include <cstring>

#include "hwy/base.h"
#include "hwy/cache_control.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/linear_kernels.h"

#define TANDEM_AVX512 "avx2,fma,f16c,avx512f,avx512vl,avx512dq,avx512bw"

HWY_PUSH_ATTRIBUTES(TANDEM_AVX512 ",avx512vnni")
namespace tandem::kernels::vnni {

struct Ops {
  static constexpr size_t kWidth = 16;
  static constexpr size_t kIntegerAccumulators = 12;
  static constexpr size_t kMostTokens = 6;

  using Float = __m512;
  static HWY_INLINE Float Zero() { return _mm512_setzero_ps(); }
  static HWY_INLINE Float Set(float value) { return _mm512_set1_ps(value); }
  static HWY_INLINE Float Load(const float* p) { return _mm512_loadu_ps(p); }
  static HWY_INLINE void Store(Float v, float* p) { _mm512_storeu_ps(p, v); }
  static HWY_INLINE Float Add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static HWY_INLINE Float Mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static HWY_INLINE Float MulAdd(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static HWY_INLINE Float LoadScales(DType dtype, const uint8_t* p) {
    if (dtype == DType::kF32) return _mm512_loadu_ps(p);
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    if (dtype == DType::kF16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }

  using Codes = __m512i;
  using Sum = __m512i;
  static HWY_INLINE Codes LoadCodes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static HWY_INLINE void LoadNibbles(const uint8_t* p, Codes& low, Codes& high) {
    const __m512i bytes = _mm512_loadu_si512(p);
    const __m512i mask = _mm512_set1_epi8(0x0f);
    low = _mm512_and_si512(bytes, mask);
    high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
  }
  static HWY_INLINE Codes BroadcastQuad(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    return _mm512_set1_epi32(quad);
  }
  static HWY_INLINE Sum Start(int32_t value) { return _mm512_set1_epi32(value); }
  static HWY_INLINE __m512i LoadZeros(const uint8_t* p, int32_t offset) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_add_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(offset));
  }
  static HWY_INLINE Sum StartProduct(__m512i zeros, int32_t value) {
    return _mm512_mullo_epi32(zeros, _mm512_set1_epi32(value));
  }
  static HWY_INLINE Sum Dot(Sum sum, Codes w, Codes x) {
    // GCC 12 copies the accumulators around its builtin.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
  }
  static HWY_INLINE Float ToFloat(Sum sum) { return _mm512_cvtepi32_ps(sum); }
};

#include "kernels/cpu/linear_loops-inl.h"

void LinearInt8(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, IntegerLeaf<Ops, 8>>(a, begin, end, scratch);
}
void LinearInt4(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, IntegerLeaf<Ops, 4>>(a, begin, end, scratch);
}

}  // namespace tandem::kernels::vnni
HWY_POP_ATTRIBUTES

HWY_PUSH_ATTRIBUTES(TANDEM_AVX512 ",avx512bf16")
namespace tandem::kernels::bf16 {

struct Ops {
  static constexpr size_t kWidth = 16;
  static constexpr size_t kAccumulators = 24;
  static constexpr size_t kMostTokens = 6;

  using Float = __m512;
  static HWY_INLINE Float Zero() { return _mm512_setzero_ps(); }
  static HWY_INLINE Float Load(const float* p) { return _mm512_loadu_ps(p); }
  static HWY_INLINE void Store(Float v, float* p) { _mm512_storeu_ps(p, v); }
  static HWY_INLINE Float Add(Float a, Float b) { return _mm512_add_ps(a, b); }
};

// The instruction flushes denormals and adds the odd column first, each product
// by a fused multiply-add.
struct PairFormat {
  static constexpr bool kFlushesDenormals = false;
  static constexpr size_t kStepColumns = 2;
  static constexpr size_t kStepBytes = 4;
  static constexpr size_t kValueBytes = 4;
  using Weight = __m512i;
  using Value = __m512i;
  static HWY_INLINE Weight LoadWeight(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static HWY_INLINE Value Broadcast(const uint8_t* p) {
    int32_t pair;
    std::memcpy(&pair, p, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static HWY_INLINE __m512 Dot(__m512 sum, Weight w, Value x) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
    return sum;
  }
};

#include "kernels/cpu/linear_loops-inl.h"

void LinearBf16(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, FloatLeaf<Ops, PairFormat>>(a, begin, end, scratch);
}

}  // namespace tandem::kernels::bf16
HWY_POP_ATTRIBUTES

namespace tandem::kernels::cpu {

DotInstructions SupportedDotInstructions() {
  __builtin_cpu_init();
  return {.vnni = __builtin_cpu_supports("avx512vnni") != 0,
          .bf16 = __builtin_cpu_supports("avx512bf16") != 0};
}

bool NeedsSoftwarePrefetch() {
  __builtin_cpu_init();
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__builtin_cpu_is("amd") || __get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kZen5 = 0x1a;
  return ((eax >> 8) & 15) + ((eax >> 20) & 255) == kZen5;
}

void UseDotInstructions(DotInstructions use, PanelKernels& kernels) {
  if (use.vnni) {
    kernels[static_cast<int>(WeightKind::kInt8)] = &vnni::LinearInt8;
    kernels[static_cast<int>(WeightKind::kInt4)] = &vnni::LinearInt4;
  }
  if (use.bf16) kernels[static_cast<int>(WeightKind::kBF16)] = &bf16::LinearBf16;
}

}  // namespace tandem::kernels::cpu
