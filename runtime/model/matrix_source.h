// Matrices and vectors of a checkpoint as the parallel layers read them: as stored, or converted on
// the way.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/linear.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/packed_file.h"
#include "runtime/loader/quantized_weight.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/weight_format.h"

namespace tandem::model {

// A matrix [rows, columns] in the checkpoint: elements, or quantized. Copies refer to the same one.
class StoredMatrix {
 public:
  explicit StoredMatrix(loader::CheckpointTensor tensor) : tensor_(tensor) {}
  explicit StoredMatrix(std::shared_ptr<loader::QuantizedWeight> quantized)
      : quantized_(std::move(quantized)) {}

  int64_t rows() const;
  int64_t columns() const;
  std::string name() const;
  WeightFormat format() const;
  // One of the two, the other is null.
  const loader::CheckpointTensor* tensor() const { return tensor_ ? &*tensor_ : nullptr; }
  loader::QuantizedWeight* quantized() const { return quantized_.get(); }
  // All tensors that it is stored in.
  std::vector<loader::CheckpointTensor> Tensors() const;

  absl::Status Prepare(const loader::Block& block) const;
  // Elements of the given type, rows dst_stride bytes apart. INVALID_ARGUMENT where
  // a value is beyond the type.
  absl::Status Read(const loader::Block& block, kernels::DType dtype, std::byte* dst,
                    size_t dst_stride) const;
  // Of a matrix whose format has codes.
  absl::Status ReadCodes(const loader::Block& block, kernels::QuantizedRows dst) const {
    return quantized_->ReadCodes(block, dst);
  }

 private:
  std::optional<loader::CheckpointTensor> tensor_;
  std::shared_ptr<loader::QuantizedWeight> quantized_;
};

// The matrix of a module, as elements or quantized, whatever the checkpoint has.
absl::StatusOr<StoredMatrix> TakeMatrix(const loader::ModelConfig& config,
                                        loader::Checkpoint& checkpoint, const Module& module);

// How a packed file describes a matrix, in addition to its name.
std::string PackedDescription(const kernels::LinearSpec& whole);

class MatrixSource : public parallel::WeightSource {
 public:
  // format: as it is held. packed: a file that may hold the matrix as the backend packs it;
  // outlives this, or null. in_place: products read it there.
  MatrixSource(StoredMatrix stored, const WeightFormat& format,
               const loader::PackedFile* packed = nullptr, bool in_place = false)
      : stored_(std::move(stored)), format_(format), packed_(packed), in_place_(in_place) {}

  kernels::DType dtype() const override { return format_.dtype; }
  std::optional<kernels::QuantFormat> quant() const override { return format_.quant; }
  int64_t rows() const override { return stored_.rows(); }
  int64_t columns() const override { return stored_.columns(); }
  std::string name() const override { return stored_.name(); }

  absl::Status Prepare(parallel::Range rows, parallel::Range columns) override;
  absl::Status CopyBlock(parallel::Range rows, parallel::Range columns, std::byte* dst,
                         size_t dst_stride) const override;
  absl::Status CopyQuantized(parallel::Range rows, parallel::Range columns,
                             kernels::QuantizedRows dst) const override;
  kernels::PackedReader Packed(const kernels::LinearSpec& whole) const override;
  const std::byte* Mapped(const kernels::LinearSpec& whole) const override;

 private:
  // Whether codes are made here, not as stored.
  bool quantizes() const { return format_.quant && stored_.format().quant != format_.quant; }
  // A group's scale comes from the whole group, on every rank that has a part of it.
  parallel::Range WholeGroups(parallel::Range columns) const;

  StoredMatrix stored_;
  WeightFormat format_;
  const loader::PackedFile* packed_;
  bool in_place_;
};

// A vector [rows] of elements.
class VectorSource : public parallel::WeightSource {
 public:
  explicit VectorSource(loader::CheckpointTensor tensor) : tensor_(tensor) {}
  kernels::DType dtype() const override { return tensor_.dtype(); }
  int64_t rows() const override { return tensor_.rows(); }
  int64_t columns() const override { return 1; }
  std::string name() const override { return tensor_.info().name; }
  absl::Status CopyBlock(parallel::Range rows, parallel::Range, std::byte* dst,
                         size_t) const override {
    return tensor_.CopyRows(rows.begin, rows.end, dst);
  }

 private:
  loader::CheckpointTensor tensor_;
};

}  // namespace tandem::model
