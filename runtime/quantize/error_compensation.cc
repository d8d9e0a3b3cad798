#include "runtime/quantize/error_compensation.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/quantize_rows.h"

namespace tandem::quantize {
namespace {

// Columns that are factored and quantized at a time, before what they change is
// carried to the rest by a product.
constexpr int64_t kBlock = 256;
// Rows of a product, so that its result stays small beside the matrices.
constexpr int64_t kProductRows = 1024;
constexpr int64_t kLeaf = 128;

}  // namespace

absl::Status ProductOfRows(kernels::Backend& backend, const float* a, int64_t m, int64_t a_stride,
                           const float* b, int64_t n, int64_t k, float* out) {
  const kernels::LinearSpec spec = {.dtype = kernels::DType::kF32,
                                    .rows = m,
                                    .global_columns = k,
                                    .leaf_size = kLeaf,
                                    .leaves = {0, (k + kLeaf - 1) / kLeaf}};
  TANDEM_ASSIGN_OR_RETURN(const auto weight,
                          backend.PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* dst) {
                            for (int64_t row = begin; row < end; ++row, dst += k * sizeof(float)) {
                              std::memcpy(dst, a + row * a_stride, k * sizeof(float));
                            }
                            return absl::OkStatus();
                          }));
  backend.Linear(*weight, b, n, nullptr, out);
  backend.Synchronize();
  return absl::OkStatus();
}

InputProducts::InputProducts(kernels::Backend& backend, int64_t columns)
    : backend_(backend), columns_(columns), matrix_(columns * columns) {}

absl::Status InputProducts::Add(const float* x, int64_t tokens) {
  constexpr int64_t kTokens = 1024;
  std::vector<float> turned, product;
  for (int64_t begin = 0; begin < tokens; begin += kTokens) {
    const int64_t count = std::min(kTokens, tokens - begin);
    turned.resize(columns_ * count);  // [columns, tokens]
    for (int64_t t = 0; t < count; ++t) {
      for (int64_t j = 0; j < columns_; ++j) {
        turned[j * count + t] = x[(begin + t) * columns_ + j];
      }
    }
    for (int64_t row = 0; row < columns_; row += kProductRows) {
      const int64_t rows = std::min(kProductRows, columns_ - row);
      const int64_t width = columns_ - row;
      product.resize(rows * width);
      TANDEM_RETURN_IF_ERROR(ProductOfRows(backend_, &turned[row * count], width, count,
                                           &turned[row * count], rows, count, product.data()));
      for (int64_t i = 0; i < rows; ++i) {
        float* to = &matrix_[(row + i) * columns_ + row];
        const float* from = &product[i * width];
        for (int64_t j = 0; j < width; ++j) to[j] += from[j];
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ErrorCompensation>> ErrorCompensation::Create(
    kernels::Backend& backend, kernels::ThreadPool& pool, std::vector<float> h, int64_t columns,
    double damping) {
  TANDEM_CHECK(static_cast<int64_t>(h.size()) == columns * columns);
  double mean = 0;
  for (int64_t j = 0; j < columns; ++j) mean += h[j * columns + j];
  mean /= static_cast<double>(columns);
  for (int64_t j = 0; j < columns; ++j) {
    // A column without input has a zero row too: it stands alone.
    if (h[j * columns + j] == 0) h[j * columns + j] = mean > 0 ? static_cast<float>(mean) : 1.0f;
  }
  std::unique_ptr<ErrorCompensation> result(new ErrorCompensation(backend, pool, columns));
  for (; damping <= 1; damping *= 10) {
    absl::Status status;
    const bool definite = result->Factor(h, damping * mean, &status);
    TANDEM_RETURN_IF_ERROR(status);
    if (definite) return result;
  }
  return absl::InternalError("the calibration's products of inputs are not definite");
}

// From the last block of columns to the first: H = R R^T makes the last column of R
// from that of H, and the rest is the same again after its part is taken away.
bool ErrorCompensation::Factor(const std::vector<float>& h, double damping, absl::Status* status) {
  r_ = h;
  const int64_t n = columns_;
  for (int64_t j = 0; j < n; ++j) r_[j * n + j] += static_cast<float>(damping);
  std::vector<float> turned, panel, product;
  for (int64_t end = n; end > 0;) {
    const int64_t begin = (end - 1) / kBlock * kBlock;
    const int64_t size = end - begin;
    // The diagonal block, in double.
    std::vector<double> block(size * size);
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) block[i * size + j] = r_[(begin + i) * n + begin + j];
    }
    for (int64_t j = size - 1; j >= 0; --j) {
      const double square = block[j * size + j];
      if (!(square > 0)) return false;
      const double pivot = std::sqrt(square);
      for (int64_t i = 0; i <= j; ++i) block[i * size + j] /= pivot;
      for (int64_t i = 0; i < j; ++i) {
        const double factor = block[i * size + j];
        for (int64_t k = i; k < j; ++k) block[i * size + k] -= factor * block[k * size + j];
      }
    }
    // turned[j, k] = R[k, j] of the block, so that a column's part is one stream.
    turned.assign(size * size, 0);
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = i; j < size; ++j) {
        const auto value = static_cast<float>(block[i * size + j]);
        turned[j * size + i] = value;
        r_[(begin + i) * n + begin + j] = value;
      }
    }
    // Rows above: R_ij = (H_ij - sum over k > j of R_ik R_jk) / R_jj.
    panel.resize(begin * size);
    pool_.ParallelFor(begin, 16, [&](int, int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        float* row = &r_[i * n + begin];
        for (int64_t j = size - 1; j >= 0; --j) {
          const float* column = &turned[j * size];
          row[j] /= column[j];
          for (int64_t k = 0; k < j; ++k) row[k] -= row[j] * column[k];
        }
        std::copy(row, row + size, &panel[i * size]);
      }
    });
    // What is left of H above and to the left, its upper triangle.
    for (int64_t row = 0; row < begin; row += kProductRows) {
      const int64_t rows = std::min(kProductRows, begin - row);
      const int64_t width = begin - row;
      product.resize(rows * width);
      *status = ProductOfRows(backend_, &panel[row * size], width, size, &panel[row * size], rows,
                              size, product.data());
      if (!status->ok()) return false;
      pool_.ParallelFor(rows, 16, [&](int, int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          float* h_row = &r_[(row + i) * n + row];
          for (int64_t j = i; j < width; ++j) h_row[j] -= product[i * width + j];
        }
      });
    }
    end = begin;
  }
  return true;
}

absl::Status ErrorCompensation::Quantize(const float* rows, int64_t n,
                                         const kernels::QuantFormat& format,
                                         kernels::QuantizedRows out) const {
  const int64_t group = format.group_size;
  // Whole groups; their scales need what all columns before them have left over.
  const int64_t block = (kBlock + group - 1) / group * group;
  // What the columns so far add to the sum of column m, [rows, columns].
  std::vector<float> shifts(n * columns_);
  std::vector<float> errors, turned, product;
  for (int64_t begin = 0; begin < columns_; begin += block) {
    const int64_t end = std::min(begin + block, columns_);
    const int64_t size = end - begin;
    errors.resize(n * size);
    TANDEM_RETURN_IF_ERROR(
        QuantizeBlock(rows, n, begin, end, format, shifts.data(), errors.data(), out));
    const int64_t width = columns_ - end;
    if (width == 0) break;
    turned.resize(width * size);
    for (int64_t j = 0; j < size; ++j) {
      const float* row = &r_[(begin + j) * columns_ + end];
      for (int64_t m = 0; m < width; ++m) turned[m * size + j] = row[m];
    }
    for (int64_t row = 0; row < n; row += kProductRows) {
      const int64_t count = std::min(kProductRows, n - row);
      product.resize(count * width);
      TANDEM_RETURN_IF_ERROR(ProductOfRows(backend_, turned.data(), width, size,
                                           &errors[row * size], count, size, product.data()));
      pool_.ParallelFor(count, 16, [&](int, int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          float* shift = &shifts[(row + i) * columns_ + end];
          for (int64_t m = 0; m < width; ++m) shift[m] += product[i * width + m];
        }
      });
    }
  }
  return absl::OkStatus();
}

absl::Status ErrorCompensation::QuantizeBlock(const float* rows, int64_t n, int64_t begin,
                                              int64_t end, const kernels::QuantFormat& format,
                                              float* shifts, float* errors,
                                              kernels::QuantizedRows out) const {
  constexpr int64_t kRows = 32;
  const int64_t size = end - begin;
  const int64_t groups = (columns_ + format.group_size - 1) / format.group_size;
  std::mutex mutex;
  absl::Status failed;
  pool_.ParallelFor(n, kRows, [&](int, int64_t first, int64_t last) {
    const int64_t count = last - first;
    std::vector<float> wanted(count * format.group_size), importance(format.group_size);
    std::vector<int8_t> codes(count * format.group_size);
    std::vector<float> scales(count);
    std::vector<uint8_t> zeros(count, loader::SymmetricZero(format));
    for (int64_t from = begin; from < end; from += format.group_size) {
      const int64_t width = std::min(format.group_size, end - from);
      const auto pivot = [&](int64_t m) { return r_[m * columns_ + m]; };
      for (int64_t j = 0; j < width; ++j) importance[j] = pivot(from + j) * pivot(from + j);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t j = 0; j < width; ++j) {
          const int64_t at = (first + i) * columns_ + from + j;
          wanted[i * width + j] = rows[at] + shifts[at] / pivot(from + j);
        }
      }
      const absl::Status status =
          loader::QuantizeRows(wanted.data(), count, width, format, importance.data(),
                               {codes.data(), scales.data(), zeros.data()});
      if (!status.ok()) {
        const std::lock_guard lock(mutex);
        failed = status;
        return;
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = first + i;
        const float scale = scales[i];
        const uint8_t zero = zeros[i];
        const int64_t group = row * groups + from / format.group_size;
        out.scales[group] = scale;
        if (format.zero_points) out.zeros[group] = zero;
        float* shift = shifts + row * columns_;
        for (int64_t m = from; m < from + width; ++m) {
          const float* r_row = &r_[m * columns_];
          const float value = rows[row * columns_ + m];
          const int8_t code =
              loader::QuantizeValue(format, value + shift[m] / r_row[m], scale, zero);
          out.codes[row * columns_ + m] = code;
          const float error = value - scale * static_cast<float>(code - zero);
          errors[row * size + m - begin] = error;
          for (int64_t k = m + 1; k < end; ++k) shift[k] += error * r_row[k];
        }
      }
    }
  });
  return failed;
}

}  // namespace tandem::quantize
