// For ranks that are threads on one GPU.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

#include "kernels/backend.h"

namespace tandem::testing {

// Products of many tokens in each type, before ranks have kernels that wait for each other: what
// cuBLASLt loads when it is first called waits for all kernels of the GPU.
inline void WarmProducts(kernels::Backend& backend) {
  constexpr int64_t kRows = 64, kColumns = 128, kTokens = 300;
  const kernels::Buffer x = *backend.Allocate(kTokens * kColumns * sizeof(float));
  const kernels::Buffer y = *backend.Allocate(kTokens * kRows * sizeof(float));
  for (const kernels::DType dtype :
       {kernels::DType::kF32, kernels::DType::kF16, kernels::DType::kBF16}) {
    const kernels::LinearSpec spec = {
        .dtype = dtype, .rows = kRows, .global_columns = kColumns, .leaves = {0, 1}};
    const auto weight = backend.PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* to) {
      std::memset(to, 0, (end - begin) * kColumns * kernels::DTypeSize(dtype));
      return absl::OkStatus();
    });
    ASSERT_TRUE(weight.ok()) << weight.status();
    backend.Linear(**weight, x.as<float>(), kTokens, nullptr, y.as<float>());
    backend.Synchronize();
  }
}

}  // namespace tandem::testing
