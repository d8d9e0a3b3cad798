// Quantization with error compensation (GPTQ, arXiv 2210.17323): codes of a row are
// chosen one column after the other, and what rounding got wrong so far is made
// up for in the columns that follow, as far as the inputs X of the layer allow.
//
// The error that counts is |(w - q) X^T|^2 = (w - q) H (w - q)^T with H = X^T X. With
// H = R R^T, R upper triangular, it is a sum of squares whose m-th is
// (sum over j <= m of (w_j - q_j) R_jm): it needs the codes up to m alone. So q_m
// is the code nearest to w_m + sum_{j<m} (w_j - q_j) R_jm / R_mm. This is GPTQ
// without an inverse: its Cholesky factor of H^-1 is R^-1 (arXiv 2507.18553).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"

namespace tandem::quantize {

// out[i, j] = sum over k of b[i, k] a[j, k]: b is [n, k] and packed, rows of a
// [m, k] are a_stride floats apart, out is [n, m]. All on the host, fp32.
absl::Status ProductOfRows(kernels::Backend& backend, const float* a, int64_t m, int64_t a_stride,
                           const float* b, int64_t n, int64_t k, float* out);

// H, summed up from inputs.
class InputProducts {
 public:
  InputProducts(kernels::Backend& backend, int64_t columns);

  // Adds x^T x of x [tokens, columns].
  absl::Status Add(const float* x, int64_t tokens);

  // The upper triangle, row-major [columns, columns]; below it is scratch.
  std::vector<float>& matrix() { return matrix_; }

 private:
  kernels::Backend& backend_;
  int64_t columns_;
  std::vector<float> matrix_;
};

class ErrorCompensation {
 public:
  // Factors H (its upper triangle), which is destroyed. damping, relative to the
  // mean of the diagonal, is added to it, ten times as much where the matrix is
  // not definite yet; INTERNAL where even its own mean does not help. Columns
  // that no input used are left to plain rounding.
  static absl::StatusOr<std::unique_ptr<ErrorCompensation>> Create(kernels::Backend& backend,
                                                                   kernels::ThreadPool& pool,
                                                                   std::vector<float> h,
                                                                   int64_t columns,
                                                                   double damping = 0.01);

  // Quantizes rows [rows, columns]. A group's scale is searched when its first
  // column's turn comes, weighted by what each column's error costs. The
  // same bits at any number of threads.
  absl::Status Quantize(const float* rows, int64_t n, const kernels::QuantFormat& format,
                        kernels::QuantizedRows out) const;

 private:
  ErrorCompensation(kernels::Backend& backend, kernels::ThreadPool& pool, int64_t columns)
      : backend_(backend), pool_(pool), columns_(columns) {}
  bool Factor(const std::vector<float>& h, double damping, absl::Status* status);
  absl::Status QuantizeBlock(const float* rows, int64_t n, int64_t begin, int64_t end,
                             const kernels::QuantFormat& format, float* shifts, float* errors,
                             kernels::QuantizedRows out) const;

  kernels::Backend& backend_;
  kernels::ThreadPool& pool_;
  int64_t columns_;
  std::vector<float> r_;  // row-major, upper triangular
};

}  // namespace tandem::quantize
