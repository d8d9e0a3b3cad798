// The parallel layers. Each slices its own weight: a column-parallel layer holds rows of W
// (outputs); a row-parallel layer holds columns of W (inputs), and the world's all-reduce finishes
// its sum.
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

// A weight matrix [rows, columns] (PyTorch's [out, in]) or a vector [rows], usually on disk. Only
// what is asked for is read. It gives elements or, where quant() has a value, codes with their
// scales.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual kernels::DType dtype() const = 0;  // of elements
  virtual std::optional<kernels::QuantFormat> quant() const { return std::nullopt; }
  virtual int64_t rows() const = 0;
  virtual int64_t columns() const = 0;  // 1 for a vector
  virtual std::string name() const = 0;
  // Announces the block that is read next, in pieces. Reads what all pieces need.
  virtual absl::Status Prepare(Range, Range) { return absl::OkStatus(); }
  // Copies the block to dst, with rows dst_stride bytes apart.
  virtual absl::Status CopyBlock(Range rows, Range columns, std::byte* dst,
                                 size_t dst_stride) const = 0;
  // Copies the block of a quantized source: columns.size() codes for each row, and the scales and
  // zero points of the groups that the columns touch. Aborts for other sources.
  virtual absl::Status CopyQuantized(Range rows, Range columns, kernels::QuantizedRows dst) const;
  // A reader of the whole matrix as the backend packed it for `whole` before; null where no such
  // copy exists.
  virtual kernels::PackedReader Packed(const kernels::LinearSpec& whole) const;
  // The same bytes in memory that outlives the layers, if products are to read them there;
  // otherwise null.
  virtual const std::byte* Mapped(const kernels::LinearSpec&) const { return nullptr; }
};

// Rows of one matrix that become part of a merged matrix.
struct RowSlice {
  WeightSource* weight = nullptr;
  const WeightSource* bias = nullptr;  // or null
  Range rows;
};

// y = W x + b for this rank's rows. They may come from several matrices with the same input: q, k
// and v; gate and up; a slice of the head.
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

// y = W x over this rank's columns, to be summed over all ranks. The bias is the same on every rank
// and is not added here: the norm that follows adds it once.
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
