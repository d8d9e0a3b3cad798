// The arguments of Backend::AddRmsNorm beside delta, for what adds up delta in the same go.
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
