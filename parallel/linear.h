// The parallel layers. Each slices its own weight: column-parallel layers hold
// rows of W (outputs), row-parallel ones columns (inputs) and finish their sum
// with the world's all-reduce.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "parallel/shard_plan.h"
#include "parallel/tree_layout.h"

namespace tandem::parallel {

// A weight matrix [rows, columns] (PyTorch's [out, in]) somewhere on disk, or a
// vector [rows]; only what is asked for is read. It hands over elements, or, where
// quant() says so, codes with their scales.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual kernels::DType dtype() const = 0;  // of elements
  virtual std::optional<kernels::QuantFormat> quant() const { return std::nullopt; }
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;  // 1 for a vector
  virtual std::string name() const = 0;
  // Announces the block that is read next, in pieces: what all of them need is
  // read now.
  virtual absl::Status Prepare(Range, Range) { return absl::OkStatus(); }
  // The block into dst, rows dst_stride bytes apart.
  virtual absl::Status CopyBlock(Range rows, Range columns, std::byte* dst,
                                 size_t dst_stride) const = 0;
  // The block of a quantized source: columns.size() codes a row, and scales and zero
  // points of the groups that the columns touch. Others abort.
  virtual absl::Status CopyQuantized(Range rows, Range columns, kernels::QuantizedRows dst) const;
  // The whole matrix as the backend packed it before for `whole`; null where no such copy is
  // kept.
  virtual kernels::PackedReader Packed(const kernels::LinearSpec& whole) const;
  // The same bytes in memory that outlives the layers, where products are to read them there;
  // else null.
  virtual const std::byte* Mapped(const kernels::LinearSpec&) const { return nullptr; }
};

// Rows of one matrix that go into a merged one.
struct RowSlice {
  WeightSource* weight = nullptr;
  const WeightSource* bias = nullptr;  // or null
  Range rows;
};

// y = W x + b for this rank's rows, which may come from several matrices with the
// same input: q, k and v; gate and up; a slice of the head.
class ColumnParallelLinear {
 public:
  // INVALID_ARGUMENT where the matrices' formats differ.
  static absl::StatusOr<ColumnParallelLinear> Load(kernels::Backend& backend,
                                                   std::span<const RowSlice> slices);

  // x [tokens, columns] -> y [tokens, rows].
  void Forward(kernels::Backend& backend, const float* x, int64_t tokens, float* y) const {
    backend.Linear(*weight_, x, tokens, bias_.as<float>(), y);
  }
  int64_t rows() const { return weight_->spec.rows; }
  const kernels::LinearSpec& spec() const { return weight_->spec; }
  size_t bytes() const { return weight_->bytes() + bias_.bytes(); }
  std::span<const std::span<const std::byte>> mapped() const { return weight_->mapped(); }

 private:
  std::unique_ptr<kernels::LinearWeight> weight_;
  kernels::Buffer bias_;  // fp32 [rows], or empty
};

// y = W x over this rank's columns, summed over all ranks. The bias is the
// same on every rank and is not added here: the norm that follows adds it once.
class RowParallelLinear {
 public:
  static absl::StatusOr<RowParallelLinear> Load(kernels::Backend& backend, WeightSource& weight,
                                                const WeightSource* bias, int64_t leaf_size,
                                                kernels::LeafRange leaves);

  // x [tokens, local columns] -> partials [own subtrees, tokens, rows], this rank's part of an
  // all-reduce.
  void Forward(kernels::Backend& backend, const float* x, int64_t tokens, float* partials) const {
    backend.Linear(*weight_, x, tokens, nullptr, partials);
  }
  const float* bias() const { return bias_.as<float>(); }
  int64_t subtrees() const { return weight_->schedule.subtrees; }
  size_t bytes() const { return weight_->bytes() + bias_.bytes(); }
  std::span<const std::span<const std::byte>> mapped() const { return weight_->mapped(); }

 private:
  std::unique_ptr<kernels::LinearWeight> weight_;
  kernels::Buffer bias_;
};

// The whole matrix as the backend packs it for layers whose leaves have leaf_size columns.
absl::StatusOr<std::unique_ptr<kernels::LinearWeight>> PackWhole(kernels::Backend& backend,
                                                                 WeightSource& source,
                                                                 int64_t leaf_size);

// A whole vector as fp32 in the backend's memory.
absl::StatusOr<kernels::Buffer> LoadVector(kernels::Backend& backend, const WeightSource& source);

}  // namespace tandem::parallel
