// Peak loops of AVX512-VNNI and AVX512-BF16, which Highway 1.0.3 lacks. See probe_kernels.h.
#include <immintrin.h>

#include "kernels/cpu/probe_kernels.h"

namespace tandem::kernels::cpu {
namespace {

constexpr int kSums = 12;

__attribute__((target("avx512f,avx512vnni"))) uint64_t ByteDotRounds(uint64_t rounds) {
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(-5);
  __m512i sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = _mm512_set1_epi32(i);
  for (uint64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm512_add_epi32(sum[0], sum[i]);
  int32_t lanes[16];
  _mm512_storeu_si512(lanes, sum[0]);
  return static_cast<uint64_t>(lanes[0]);
}

__attribute__((target("avx512f,avx512bf16,avx512vl,avx512bw"))) uint64_t Bf16DotRounds(
    uint64_t rounds) {
  const __m512 one = _mm512_set1_ps(1.0f);
  const __m512bh a = _mm512_cvtne2ps_pbh(one, one);
  __m512 sum[kSums];
  for (int i = 0; i < kSums; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (uint64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kSums; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], a, a);
  }
  for (int i = 1; i < kSums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  float lanes[16];
  _mm512_storeu_ps(lanes, sum[0]);
  return static_cast<uint64_t>(lanes[0]);
}

}  // namespace

PeakLoop ByteDotLoop() {
  if (!__builtin_cpu_supports("avx512vnni")) return {};
  return {&ByteDotRounds, 2.0 * kSums * 64, "vpdpbusd"};
}

PeakLoop Bf16DotLoop() {
  if (!__builtin_cpu_supports("avx512bf16")) return {};
  return {&Bf16DotRounds, 2.0 * kSums * 32, "vdpbf16ps"};
}

}  // namespace tandem::kernels::cpu
