// Values for tests of kernels.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace tandem::testing {

// Normally distributed.
inline std::vector<float> RandomFloats(size_t n, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0, scale);
  std::vector<float> out(n);
  for (float& v : out) v = value(random);
  return out;
}

}  // namespace tandem::testing
