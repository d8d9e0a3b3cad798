// A quantized matrix of a checkpoint, in whatever layout it lies, read as codes
// with scales or as values.
//
// Where a kernels::QuantFormat holds the matrix exactly, codes, scales and zero
// points come out as they are stored; a scale of a whole row or matrix, or of
// more than 128 columns, or of a block of rows, is repeated for groups of 128. What no
// QuantFormat holds (columns in groups of their own, 8 bits with zero points, groups of
// other sizes), and floats of 8 bits where they are not multiplied, is read as values: (code -
// zero) * scale, computed exactly and rounded once.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/quantization_config.h"

namespace tandem::loader {

// A part of a matrix: rows [row_begin, row_end), columns [column_begin, column_end).
struct Block {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;
  int64_t rows() const { return row_end - row_begin; }
  int64_t columns() const { return column_end - column_begin; }
};

class QuantizedWeight {
 public:
  // Takes the module's tensors. Errors name the file, the tensor, what was found
  // and what was expected. The checkpoint must outlive the weight.
  static absl::StatusOr<std::unique_ptr<QuantizedWeight>> Take(Checkpoint& checkpoint,
                                                               const QuantizedScheme& scheme,
                                                               const std::string& module,
                                                               int64_t rows, int64_t columns);

  const std::string& module() const { return module_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  const std::optional<kernels::QuantFormat>& format() const { return format_; }

  // Those that it reads.
  std::vector<CheckpointTensor> Tensors() const;

  // Reads and checks what the block's codes need: scales, zero points, groups, and
  // the codes themselves where rows do not lie in one piece. Reads go on inside
  // the block then, from any thread.
  absl::Status Prepare(const Block& block);

  // Says now what is wrong with rows that will be read later: scales, zero points, groups, and
  // codes where some are none. Prepares other blocks.
  absl::Status CheckRows(int64_t begin, int64_t end);

  // Codes, scales and zero points of a weight that has a format(), as
  // kernels::QuantizedRows describes them.
  absl::Status ReadCodes(const Block& block, kernels::QuantizedRows dst) const;

  // Values, rows dst_stride bytes apart.
  absl::Status ReadValues(const Block& block, kernels::DType dtype, std::byte* dst,
                          size_t dst_stride) const;

 private:
  QuantizedWeight() = default;
  int64_t group_count() const;
  int64_t GroupOf(int64_t column) const;
  // Index into scales_ and zeros_ of a row of the prepared block.
  size_t ScaleRow(int64_t row) const;
  absl::Status PrepareGroups();
  absl::Status PrepareScales();
  absl::Status PrepareZeros();
  // One code an element, as QuantFormat has them; of floats, their bytes.
  absl::Status DecodeCodes(const Block& block, int8_t* codes) const;
  absl::Status Wrong(const CheckpointTensor& tensor, const std::string& what) const;
  absl::Status NoNumber(int64_t row, int64_t column) const;  // of a float's code

  QuantizedScheme scheme_;
  std::string module_;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  std::optional<kernels::QuantFormat> format_;
  std::optional<CheckpointTensor> weight_, scale_, zero_, group_index_;

  // Of the prepared block.
  Block block_;
  int64_t group_begin_ = 0, group_end_ = 0;  // as stored
  std::vector<float> scales_;                // [rows or blocks of rows, groups]
  std::vector<int16_t> zeros_;               // likewise; empty: all in the middle
  std::vector<int32_t> group_of_;            // [columns], where groups are in a tensor
  std::vector<uint32_t> words_;              // of kGptq and kAwq: [packed inputs, packed outputs]
};

}  // namespace tandem::loader
