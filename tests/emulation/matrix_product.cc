// The twin of kernels/cuda/matrix_product_cublaslt.cc.
#include "kernels/cuda/matrix_product.h"

#include <cmath>

#include "kernels/base/math.h"
#include "tests/emulation/stream.h"

namespace tandem::kernels::cuda {
namespace {

float Value(const void* values, DType dtype, int64_t index) {
  if (dtype == DType::kF32) return static_cast<const float*>(values)[index];
  const uint16_t bits = static_cast<const uint16_t*>(values)[index];
  return dtype == DType::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
}

class EmulatedProduct : public MatrixProduct {
 public:
  explicit EmulatedProduct(cudaStream_t stream) : stream_(stream) {}

  absl::Status Multiply(const ProductShape& shape, const void* w, const void* x,
                        float* y) override {
    emulation::Enqueue(stream_, [=] {
      for (int64_t t = 0; t < shape.tokens; ++t) {
        for (int64_t r = 0; r < shape.rows; ++r) {
          float sum = 0;
          for (int64_t k = 0; k < shape.columns; ++k) {
            sum = std::fma(Value(w, shape.dtype, r * shape.w_stride + k),
                           Value(x, shape.dtype, t * shape.columns + k), sum);
          }
          y[t * shape.y_stride + r] = sum;
        }
      }
    });
    return absl::OkStatus();
  }

 private:
  cudaStream_t stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MatrixProduct>> MakeMatrixProduct(cudaStream_t stream) {
  return std::make_unique<EmulatedProduct>(stream);
}

}  // namespace tandem::kernels::cuda
