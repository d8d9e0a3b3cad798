// kernels/cuda/device/cuda_matrix.h on the emulation: the same fragments, by a warp's
// exchanges. Sums of 16 products are added in double, so that results are the exact ones
// rounded once; a GPU's may differ in the last bits.
#pragma once

#include <cuda_device.h>

#include <cstdint>
#include <cstring>

#include "kernels/base/dtype.h"
#include "kernels/base/math.h"

namespace tandem::kernels::cuda {

template <DType kType>
inline void MultiplyTiles(const unsigned (&a)[4], const unsigned (&b)[2], float (&sum)[4]) {
  static_assert(kType == DType::kBF16 || kType == DType::kF16);
  const auto pair = [](unsigned low, unsigned high) {
    return static_cast<uint64_t>(high) << 32 | low;
  };
  uint64_t words[3][32];  // of all lanes: a's upper row, its lower row, b
  const uint64_t mine[3] = {pair(a[0], a[2]), pair(a[1], a[3]), pair(b[0], b[1])};
  for (int w = 0; w < 3; ++w) {
    std::memcpy(words[w], emulation::WarpGather(mine[w]), sizeof(words[w]));
  }
  // Element k of a row or column whose lanes begin at `first`.
  const auto element = [](const uint64_t* of, unsigned first, int k) {
    const uint64_t word = of[first + k % 8 / 2] >> (k / 8 * 32 + k % 2 * 16);
    const auto bits = static_cast<uint16_t>(word);
    return kType == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  };
  const unsigned lane = emulation::CurrentLane();
  for (int s = 0; s < 4; ++s) {
    const unsigned column = lane % 4 * 2 + s % 2;
    double total = sum[s];
    for (int k = 0; k < 16; ++k) {
      total += static_cast<double>(element(words[s / 2], lane / 4 * 4, k)) *
               static_cast<double>(element(words[2], column * 4, k));
    }
    sum[s] = static_cast<float>(total);
  }
}

}  // namespace tandem::kernels::cuda
