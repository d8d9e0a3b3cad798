// A checkpoint's tensor as the parallel layers see it.
#pragma once

#include <string>

#include "parallel/linear.h"
#include "runtime/loader/checkpoint.h"

namespace tandem::model {

class TensorSource : public parallel::WeightSource {
 public:
  explicit TensorSource(loader::CheckpointTensor tensor) : tensor_(tensor) {}

  kernels::DType dtype() const override { return tensor_.dtype(); }
  int64_t rows() const override { return tensor_.rows(); }
  int64_t columns() const override {
    return tensor_.info().shape.size() < 2 ? 1 : tensor_.info().shape[1];
  }
  std::string name() const override { return tensor_.info().name; }

  absl::Status CopyBlock(parallel::Range rows, parallel::Range columns, std::byte* dst,
                         size_t dst_stride) const override {
    if (columns.size() == this->columns() &&
        dst_stride == static_cast<size_t>(tensor_.row_bytes())) {
      return tensor_.CopyRows(rows.begin, rows.end, dst);
    }
    return tensor_.CopyBlock(rows.begin, rows.end, columns.begin, columns.end, dst, dst_stride);
  }

  const loader::CheckpointTensor& tensor() const { return tensor_; }

 private:
  loader::CheckpointTensor tensor_;
};

}  // namespace tandem::model
