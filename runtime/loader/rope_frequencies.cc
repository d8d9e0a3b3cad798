#include "runtime/loader/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/base/check.h"

namespace tandem::loader {
namespace {

// Every step below rounds to float where Transformers' float32 tensors do, and
// a number divided by a tensor is a reciprocal and a product, as in PyTorch.
//
// powl and logl because double's pow and log pick an implementation by CPU (with
// fused multiply-adds or without) and could differ in the last bit between
// hosts of one world; the long double ones have a single implementation, and
// rounded to float they are exact but for one case in thousands of millions.

// theta^(2j / head_dim), [head_dim / 2].
std::vector<float> Wavelengths(double theta, int64_t head_dim) {
  std::vector<float> lengths(static_cast<size_t>(head_dim / 2));
  const float base = static_cast<float>(theta);
  for (size_t j = 0; j < lengths.size(); ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    lengths[j] = static_cast<float>(powl(base, exponent));
  }
  return lengths;
}

// Long wavelengths are stretched by factor, short ones kept, those between
// blended linearly in (original context / wavelength).
void StretchLlama3(const RopeConfig& rope, std::vector<float>& frequencies) {
  const double original = static_cast<double>(rope.original_max_position_embeddings);
  const float longest = static_cast<float>(original / rope.low_freq_factor);
  const float shortest = static_cast<float>(original / rope.high_freq_factor);
  const float factor = static_cast<float>(rope.factor);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float width = static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  for (float& frequency : frequencies) {
    const float reciprocal = 1.0f / frequency;
    const float length = reciprocal * static_cast<float>(2 * std::numbers::pi);
    if (length > longest) {
      frequency = frequency / factor;
    } else if (length >= shortest) {
      const float rotations = (1.0f / length) * static_cast<float>(original);
      const float kept = (rotations - low) / width;
      const float stretched = (1.0f - kept) * frequency / factor;
      frequency = stretched + kept * frequency;
    }
  }
}

// The dimension whose wave turns `rotations` times over the original context.
double CorrectionDim(const RopeConfig& rope, double rotations, int64_t head_dim) {
  const double turns = static_cast<double>(rope.original_max_position_embeddings) /
                       (rotations * 2 * std::numbers::pi);
  return static_cast<double>(static_cast<long double>(head_dim) * logl(turns) /
                             (2 * logl(rope.theta)));
}

// Below dimension `low` frequencies are kept, above `high` divided by factor,
// and blended linearly between. Both are double, as Python's numbers are.
std::vector<float> StretchYarn(const RopeConfig& rope, int64_t head_dim,
                               const std::vector<float>& lengths) {
  double low = CorrectionDim(rope, rope.beta_fast, head_dim);
  double high = CorrectionDim(rope, rope.beta_slow, head_dim);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // as Transformers does, against 0 / 0
  const float start = static_cast<float>(low);
  const float width = static_cast<float>(high - low);
  const float factor = static_cast<float>(rope.factor);

  std::vector<float> frequencies(lengths.size());
  for (size_t j = 0; j < lengths.size(); ++j) {
    const float ramp = std::clamp((static_cast<float>(j) - start) / width, 0.0f, 1.0f);
    const float kept = 1.0f - ramp;
    const float stretched = (1.0f / (factor * lengths[j])) * (1.0f - kept);
    frequencies[j] = stretched + (1.0f / lengths[j]) * kept;
  }
  return frequencies;
}

}  // namespace

std::vector<float> InverseFrequencies(const RopeConfig& rope, int64_t head_dim) {
  TANDEM_CHECK(head_dim > 0 && head_dim % 2 == 0);
  const std::vector<float> lengths = Wavelengths(rope.theta, head_dim);
  if (rope.kind == RopeConfig::Kind::kYarn) return StretchYarn(rope, head_dim, lengths);
  std::vector<float> frequencies(lengths.size());
  for (size_t j = 0; j < lengths.size(); ++j) frequencies[j] = 1.0f / lengths[j];
  if (rope.kind == RopeConfig::Kind::kLinear) {
    for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
  } else if (rope.kind == RopeConfig::Kind::kLlama3) {
    StretchLlama3(rope, frequencies);
  }
  return frequencies;
}

}  // namespace tandem::loader
