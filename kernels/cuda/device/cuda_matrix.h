// The GPU's matrix units, for nvcc; the emulation has its own
// (tests/emulation/include/cuda_matrix.h). Called by whole warps.
//
// Fragments are those of PTX's mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
// with g = lane / 4 and i = lane % 4, each word two 16-bit elements, the lower column first,
//   a[0] row g, columns 2i and 2i + 1     a[1] row g + 8, the same columns
//   a[2] row g, columns 2i + 8, 2i + 9    a[3] row g + 8, those
//   b[0] column g, rows 2i and 2i + 1     b[1] column g, rows 2i + 8, 2i + 9
//   sum[0], sum[1] row g, columns 2i and 2i + 1     sum[2], sum[3] row g + 8
#pragma once

#include <cuda_device.h>

#include "kernels/base/dtype.h"

namespace tandem::kernels::cuda {

// sum [16, 8] += a [16, 16] b [16, 8], added in fp32. BF16 from compute capability 8.0 on.
template <DType kType>
__device__ inline void MultiplyTiles(const unsigned (&a)[4], const unsigned (&b)[2],
                                     float (&sum)[4]) {
  static_assert(kType == DType::kBF16 || kType == DType::kF16);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (kType == DType::kBF16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  if constexpr (kType == DType::kBF16) {
    __trap();  // never launched: such a GPU's weights are FP16
  } else {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      asm volatile(
          "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
          "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
          : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
          : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
    }
  }
#endif
}

}  // namespace tandem::kernels::cuda
