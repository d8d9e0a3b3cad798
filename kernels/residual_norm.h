// The arguments of Operations::AddRmsNorm except delta, for kernels that compute delta themselves.
#pragma once

#include <cstdint>

namespace tandem::kernels {

struct ResidualNorm {
  const float* delta_bias = nullptr;
  float* residual = nullptr;
  const float* weight = nullptr;
  float epsilon = 0;
  int64_t tokens = 0;
  int64_t hidden = 0;
  float* out = nullptr;
};

}  // namespace tandem::kernels
