// The arithmetic of choosing tokens, for the host's sampler and for GPUs alike: an order of
// tokens, integer weights, bins of candidates. Bits are the same everywhere.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/base/exact_math.h"

namespace tandem::kernels {

// Signed integers in the order of the floats (minus zero equal to zero). Comparisons of integers
// vectorize; those of floats do not, because of NaN. NaN lies beyond the infinities, on the side of
// its sign bit. Uses integers alone, since arithmetic changes the bits of a NaN in a way that
// depends on the device.
constexpr int32_t OrderedKey(float x) {
  auto bits = std::bit_cast<int32_t>(x);
  bits = bits == INT32_MIN ? 0 : bits;
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

constexpr float FromOrderedKey(int32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) & 0x7fffffff));
}

inline constexpr int32_t kInfinityKey = 0x7f800000;
inline constexpr int32_t kMinusInfinityKey = ~kInfinityKey;

// One integer for each token. The order is by descending integers: by logits, then by ids. 0 is no
// token.
constexpr uint64_t PackToken(int32_t key, int32_t id) {
  return (uint64_t{static_cast<uint32_t>(key) ^ 0x80000000u} << 32) |
         (0xffffffffu - static_cast<uint32_t>(id));
}

constexpr int32_t PackedId(uint64_t token) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(token));
}

constexpr int32_t PackedKey(uint64_t token) {
  return static_cast<int32_t>(static_cast<uint32_t>(token >> 32) ^ 0x80000000u);
}

constexpr float PackedLogit(uint64_t token) { return FromOrderedKey(PackedKey(token)); }

inline constexpr int kWeightBits = 44;
inline constexpr uint64_t kLargestWeight = uint64_t{1} << kWeightBits;

// At this exponent and below, a weight is 0: 2^44 e^-32 is less than a half.
inline constexpr double kNoWeight = -32.0;

// 2^44 e^x rounded to nearest, for x from kNoWeight to 0. The bias of 2^52 leaves the rounded
// integer in the low bits of the sum, in a form that vectorizes.
constexpr uint64_t WeightOf(double x, const double* exp2_table = kExp2Table) {
  const double scaled = ExactExp(x, exp2_table) * static_cast<double>(kLargestWeight) + 0x1p52;
  return std::bit_cast<uint64_t>(scaled) - std::bit_cast<uint64_t>(0x1p52);
}

// Where a draw of 64 uniform bits falls in a sum of weights: 0 .. sum - 1.
constexpr uint64_t DrawTarget(uint64_t uniform, uint64_t sum) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(uniform) * sum) >> 64);
}

// The bin of a token by its distance from the largest logit, nearer tokens first: 64 bins for each
// octave of distances from 2^-20 to 2^12; smaller distances are in the first bin, larger ones in
// the last. Equal logits are in one bin, so the first bins together are a prefix of the order.
inline constexpr int kCandidateBins = 2048;

constexpr int CandidateBin(float largest, float logit) {
  constexpr uint32_t kFirst = (127 - 20) << 6;
  const uint32_t bin = std::bit_cast<uint32_t>(largest - logit) >> 17;
  if (bin <= kFirst) return 0;
  return bin - kFirst < kCandidateBins ? static_cast<int>(bin - kFirst) : kCandidateBins - 1;
}

}  // namespace tandem::kernels
