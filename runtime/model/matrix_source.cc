#include "runtime/model/matrix_source.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/quantize_rows.h"

namespace tandem::model {
namespace {

using kernels::DType;
using loader::Block;
using parallel::Range;

Block BlockOf(Range rows, Range columns) {
  return {rows.begin, rows.end, columns.begin, columns.end};
}

float Load(const std::byte* at, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, at, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, at, 2);
  return dtype == DType::kF16 ? kernels::F16ToFloat(bits) : kernels::Bf16ToFloat(bits);
}

}  // namespace

absl::StatusOr<StoredMatrix> TakeMatrix(const loader::ModelConfig& config,
                                        loader::Checkpoint& checkpoint, const Module& module) {
  const loader::QuantizedScheme* scheme = SchemeOf(config, checkpoint, module);
  if (scheme == nullptr) {
    TANDEM_ASSIGN_OR_RETURN(
        const loader::CheckpointTensor tensor,
        checkpoint.Take(module.name + ".weight", {module.rows, module.columns}));
    return StoredMatrix(tensor);
  }
  TANDEM_ASSIGN_OR_RETURN(
      std::unique_ptr<loader::QuantizedWeight> weight,
      loader::QuantizedWeight::Take(checkpoint, *scheme, module.name, module.rows, module.columns));
  return StoredMatrix(std::shared_ptr<loader::QuantizedWeight>(std::move(weight)));
}

std::string PackedDescription(const kernels::LinearSpec& whole) {
  return absl::StrCat(
      whole.rows, " x ", whole.global_columns, ", leaves of ", whole.leaf_size, ", ",
      FormatName({.dtype = whole.dtype, .quant = whole.quant}),
      whole.quant
          ? absl::StrCat(", scales ", std::string(kernels::DTypeName(whole.quant->scale_dtype)))
          : "");
}

int64_t StoredMatrix::rows() const { return tensor_ ? tensor_->rows() : quantized_->rows(); }

int64_t StoredMatrix::columns() const {
  return tensor_ ? tensor_->info().shape[1] : quantized_->columns();
}

std::string StoredMatrix::name() const {
  return tensor_ ? tensor_->info().name : quantized_->module();
}

WeightFormat StoredMatrix::format() const {
  if (tensor_) return {.dtype = tensor_->dtype(), .quant = std::nullopt};
  return {.dtype = DType::kBF16, .quant = quantized_->format()};
}

std::vector<loader::CheckpointTensor> StoredMatrix::Tensors() const {
  return tensor_ ? std::vector{*tensor_} : quantized_->Tensors();
}

absl::Status StoredMatrix::Prepare(const Block& block) const {
  return tensor_ ? absl::OkStatus() : quantized_->Prepare(block);
}

absl::Status StoredMatrix::Read(const Block& block, DType dtype, std::byte* dst,
                                size_t dst_stride) const {
  if (!tensor_) return quantized_->ReadValues(block, dtype, dst, dst_stride);
  if (tensor_->dtype() == dtype) {
    return tensor_->CopyBlock(block.row_begin, block.row_end, block.column_begin, block.column_end,
                              dst, dst_stride);
  }
  const size_t size = DTypeSize(tensor_->dtype());
  std::vector<std::byte> raw(block.rows() * block.columns() * size);
  TANDEM_RETURN_IF_ERROR(tensor_->CopyBlock(block.row_begin, block.row_end, block.column_begin,
                                            block.column_end, raw.data(), block.columns() * size));
  const std::byte* from = raw.data();
  for (int64_t r = 0; r < block.rows(); ++r) {
    for (int64_t k = 0; k < block.columns(); ++k, from += size) {
      const float value = Load(from, tensor_->dtype());
      std::byte* to = dst + r * dst_stride + k * DTypeSize(dtype);
      if (dtype == DType::kF32) {
        std::memcpy(to, &value, 4);
        continue;
      }
      const uint16_t bits =
          dtype == DType::kF16 ? kernels::FloatToF16(value) : kernels::FloatToBf16(value);
      std::memcpy(to, &bits, 2);
      if (std::isinf(Load(to, dtype)) && std::isfinite(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat(tensor_->path(), ": tensor ", name(), ": found ", value, " at row ",
                         block.row_begin + r, ", expected what ", std::string(DTypeName(dtype)),
                         " can hold; give another --dtype"));
      }
    }
  }
  return absl::OkStatus();
}

Range MatrixSource::WholeGroups(Range columns) const {
  const int64_t size = format_.quant->group_size;
  if (columns.size() == 0) return columns;
  return {columns.begin / size * size,
          std::min((columns.end + size - 1) / size * size, stored_.columns())};
}

absl::Status MatrixSource::Prepare(Range rows, Range columns) {
  return stored_.Prepare(BlockOf(rows, quantizes() ? WholeGroups(columns) : columns));
}

absl::Status MatrixSource::CopyBlock(Range rows, Range columns, std::byte* dst,
                                     size_t dst_stride) const {
  return stored_.Read(BlockOf(rows, columns), format_.dtype, dst, dst_stride);
}

absl::Status MatrixSource::CopyQuantized(Range rows, Range columns,
                                         kernels::QuantizedRows dst) const {
  if (!quantizes()) return stored_.ReadCodes(BlockOf(rows, columns), dst);
  const Range whole = WholeGroups(columns);
  const int64_t width = whole.size();
  std::vector<float> values(rows.size() * width);
  TANDEM_RETURN_IF_ERROR(stored_.Read(BlockOf(rows, whole), DType::kF32,
                                      reinterpret_cast<std::byte*>(values.data()), width * 4));
  std::vector<int8_t> codes(values.size());
  const absl::Status status =
      loader::QuantizeRows(values.data(), rows.size(), width, *format_.quant, nullptr,
                           {.codes = codes.data(), .scales = dst.scales, .zeros = dst.zeros});
  if (!status.ok()) {
    return absl::Status(status.code(),
                        absl::StrCat(name(), " from row ", rows.begin, ", column ", whole.begin,
                                     " on: ", std::string(status.message())));
  }
  for (int64_t r = 0; r < rows.size(); ++r) {
    std::copy_n(codes.data() + r * width + columns.begin - whole.begin, columns.size(),
                dst.codes + r * columns.size());
  }
  return absl::OkStatus();
}

kernels::PackedReader MatrixSource::Packed(const kernels::LinearSpec& whole) const {
  const loader::PackedFile::Entry* matrix =
      packed_ == nullptr ? nullptr : packed_->Find(name(), PackedDescription(whole));
  if (matrix == nullptr) return nullptr;
  return [file = packed_, matrix](uint64_t offset, size_t bytes, std::byte* dst) {
    return file->Read(*matrix, offset, bytes, dst);
  };
}

const std::byte* MatrixSource::Mapped(const kernels::LinearSpec& whole) const {
  if (packed_ == nullptr || !in_place_) return nullptr;
  const loader::PackedFile::Entry* matrix = packed_->Find(name(), PackedDescription(whole));
  return matrix == nullptr ? nullptr : packed_->image() + matrix->offset;
}

}  // namespace tandem::model
