// Products of many tokens on the GPU's matrix units.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"

namespace tandem::kernels::cuda {

// y[t, r] = sum over k of w[r, k] x[t, k], added in fp32.
struct ProductShape {
  DType dtype = DType::kBF16;  // of w and x
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t tokens = 0;
  int64_t w_stride = 0;  // elements between rows of w
  int64_t y_stride = 0;  // floats between tokens of y; x is dense
  auto operator<=>(const ProductShape&) const = default;
};

class MatrixProduct {
 public:
  virtual ~MatrixProduct() = default;
  // Pointers are the GPU's and 16-byte aligned, strides and columns multiples of 16 bytes.
  // INTERNAL where the library cannot compute it.
  virtual absl::Status Multiply(const ProductShape& shape, const void* w, const void* x,
                                float* y) = 0;
};

// Work goes to `stream`, which outlives the object.
absl::StatusOr<std::unique_ptr<MatrixProduct>> MakeMatrixProduct(cudaStream_t stream);

}  // namespace tandem::kernels::cuda
