// Loops of the machine probe that every instruction set has. See probe_kernels.h.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/probe_loops.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/probe_kernels.h"
#include "kernels/cpu/target_table.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Independent sums, enough to hide the latency and few enough for the registers of AVX2.
inline constexpr size_t kFmaSums = 12;
inline constexpr size_t kDotSums = 6;

uint64_t FmaRounds(uint64_t rounds) {
  const hn::ScalableTag<float> d;
  const auto a = hn::Set(d, 0.5f);
  const auto b = hn::Iota(d, 1.0f);
  hn::Vec<decltype(d)> sum[kFmaSums];
  for (size_t i = 0; i < kFmaSums; ++i) sum[i] = hn::Set(d, static_cast<float>(i));
  for (uint64_t r = 0; r < rounds; ++r) {
    for (size_t i = 0; i < kFmaSums; ++i) sum[i] = hn::MulAdd(a, b, sum[i]);
  }
  for (size_t i = 1; i < kFmaSums; ++i) sum[0] = hn::Add(sum[0], sum[i]);
  return static_cast<uint64_t>(hn::GetLane(sum[0]));
}

double FmaOperations() {
  return 2.0 * kFmaSums * static_cast<double>(hn::Lanes(hn::ScalableTag<float>()));
}

uint64_t WidenedDotRounds(uint64_t rounds) {
  const hn::ScalableTag<int16_t> d16;
  const hn::RepartitionToWide<decltype(d16)> d32;
  // Factors differ and change, so that the compiler cannot reuse products.
  auto a = hn::Iota(d16, 1);
  hn::Vec<decltype(d16)> b[kDotSums];
  hn::Vec<decltype(d32)> low[kDotSums], high[kDotSums];
  for (size_t i = 0; i < kDotSums; ++i) {
    b[i] = hn::Set(d16, static_cast<int16_t>(i + 3));
    low[i] = high[i] = hn::Zero(d32);
  }
  for (uint64_t r = 0; r < rounds; ++r) {
    for (size_t i = 0; i < kDotSums; ++i) {
      low[i] = hn::ReorderWidenMulAccumulate(d32, a, b[i], low[i], high[i]);
    }
    a = hn::Xor(a, b[0]);
  }
  for (size_t i = 1; i < kDotSums; ++i) low[0] = hn::Add(low[0], low[i]);
  for (size_t i = 0; i < kDotSums; ++i) low[0] = hn::Add(low[0], high[i]);
  return static_cast<uint64_t>(hn::GetLane(low[0]));
}

double WidenedDotOperations() {
  return 2.0 * kDotSums * static_cast<double>(hn::Lanes(hn::ScalableTag<int16_t>()));
}

uint64_t ReadBytes(const std::byte* data, size_t bytes) {
  const hn::ScalableTag<uint64_t> d;
  constexpr size_t kUnroll = 8;
  const size_t lanes = hn::Lanes(d);
  hn::Vec<decltype(d)> sum[kUnroll];
  for (size_t i = 0; i < kUnroll; ++i) sum[i] = hn::Zero(d);
  const auto* from = reinterpret_cast<const uint64_t*>(data);
  const auto* const end = from + bytes / sizeof(uint64_t);
  for (; from < end; from += kUnroll * lanes) {
    for (size_t i = 0; i < kUnroll; ++i) sum[i] = hn::Xor(sum[i], hn::Load(d, from + i * lanes));
  }
  for (size_t i = 1; i < kUnroll; ++i) sum[0] = hn::Xor(sum[0], sum[i]);
  return hn::GetLane(sum[0]);
}

cpu::ProbeKernels ProbeKernelsHere() {
  return {.fma = {&FmaRounds, FmaOperations(), "fp32 fma"},
          .widened_dot = {&WidenedDotRounds, WidenedDotOperations(), "16-bit multiply-add"},
          .read = &ReadBytes};
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(ProbeKernelsHere);

namespace cpu {

ProbeKernels ProbeKernelsOf(int64_t target) {
  return TANDEM_FOR_TARGET(ProbeKernelsHere, target)();
}

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
