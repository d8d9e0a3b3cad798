#include "runtime/loader/quantized_weight.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/json_field.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "runtime/loader/quantized_tensors.h"

namespace tandem::loader {
namespace {

using kernels::DType;

// What other programs keep with the weights: scales of activations, which are
// quantized anew here, and what a layout has only in some versions.
constexpr const char* kUnused[] = {"input_scale",  "input_zero_point",  "input_global_scale",
                                   "output_scale", "output_zero_point", "weight_shape",
                                   "g_idx",        "weight_g_idx",      "weight_zero_point"};

// No code is larger, nor a float of 8 bits.
constexpr float kLargestCode = 512;

// Output of a word's nibble i, in AWQ's order.
constexpr int kAwqOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The sign bit of a code moves where int8 has it.
int8_t Signed(uint32_t code) { return static_cast<int8_t>(static_cast<int32_t>(code & 255) - 128); }

// a * b towards the nearest float with an odd last bit where it is not exact: a
// later rounding to 16 bits is then as if it were the only one. (Of products
// under 2^-100, which no weight has, the error term is lost.)
float ProductToOdd(float a, float b) {
  const float product = a * b;
  const float error = std::fma(a, b, -product);
  if (error == 0) return product;
  uint32_t bits = std::bit_cast<uint32_t>(product);
  if ((error < 0) != (product < 0)) --bits;
  return std::bit_cast<float>(bits | 1);
}

}  // namespace

absl::StatusOr<std::unique_ptr<QuantizedWeight>> QuantizedWeight::Take(
    Checkpoint& checkpoint, const QuantizedScheme& scheme, const std::string& module, int64_t rows,
    int64_t columns) {
  std::unique_ptr<QuantizedWeight> weight(new QuantizedWeight);
  weight->scheme_ = scheme;
  weight->module_ = module;
  weight->rows_ = rows;
  weight->columns_ = columns;
  weight->format_ = QuantizedFormat(scheme, checkpoint, module, columns);
  const QuantizedNames names = NamesOf(scheme, checkpoint, module);
  std::vector<ExpectedTensor> tensors = QuantizedTensors(scheme, checkpoint, module, rows, columns);
  if (!scheme.act_order && checkpoint.Has(names.group_index)) {
    tensors.push_back({names.group_index, {columns}, {"I32", "U32"}});
  }
  for (const ExpectedTensor& expected : tensors) {
    TANDEM_ASSIGN_OR_RETURN(const CheckpointTensor tensor, checkpoint.Take(expected));
    if (expected.name == names.weight) {
      weight->weight_ = tensor;
    } else if (expected.name == names.zero) {
      weight->zero_ = tensor;
    } else if (expected.name == names.group_index) {
      weight->group_index_ = tensor;
    } else {
      weight->scale_ = tensor;
    }
  }
  // Words of GPTQ and AWQ have no room for a rest.
  const int64_t codes = 32 / scheme.bits;
  const bool packs_rows =
      scheme.layout == QuantizedLayout::kGptq || scheme.layout == QuantizedLayout::kAwq;
  if ((packs_rows && rows % codes != 0) ||
      (scheme.layout == QuantizedLayout::kGptq && columns % codes != 0)) {
    return weight->Wrong(*weight->weight_, absl::StrCat("a matrix [", rows, ", ", columns,
                                                        "], expected multiples of ", codes));
  }
  const std::string shape_name = module + ".weight_shape";
  if (scheme.layout == QuantizedLayout::kPacked && checkpoint.Has(shape_name)) {
    TANDEM_ASSIGN_OR_RETURN(const CheckpointTensor shape,
                            checkpoint.Take({shape_name, {2}, {"I64", "I32"}}));
    int64_t stored[2] = {};
    if (shape.info().stored_type == "I64") {
      TANDEM_RETURN_IF_ERROR(shape.CopyAll(stored));
    } else {
      int32_t narrow[2] = {};
      TANDEM_RETURN_IF_ERROR(shape.CopyAll(narrow));
      std::copy(narrow, narrow + 2, stored);
    }
    if (stored[0] != rows || stored[1] != columns) {
      return weight->Wrong(shape, absl::StrCat("[", stored[0], ", ", stored[1], "], expected [",
                                               rows, ", ", columns, "] by config.json"));
    }
  }
  for (const char* name : kUnused) checkpoint.Pass(absl::StrCat(module, ".", name));
  return weight;
}

absl::Status QuantizedWeight::Wrong(const CheckpointTensor& tensor, const std::string& what) const {
  return absl::InvalidArgumentError(
      absl::StrCat(tensor.path(), ": tensor ", json::Quoted(tensor.info().name), ": found ", what));
}

absl::Status QuantizedWeight::NoNumber(int64_t row, int64_t column) const {
  return Wrong(*weight_,
               absl::StrCat("no number at row ", row, ", column ", column, ", expected one"));
}

int64_t QuantizedWeight::group_count() const { return GroupCount(scheme_, columns_); }

int64_t QuantizedWeight::GroupOf(int64_t column) const {
  if (scheme_.act_order) return group_of_[column - block_.column_begin];
  return scheme_.group_size == 0 ? 0 : column / scheme_.group_size;
}

size_t QuantizedWeight::ScaleRow(int64_t row) const {
  const int64_t rows = scheme_.block_rows == 0 ? rows_ : scheme_.block_rows;
  return (row / rows - block_.row_begin / rows) * (group_end_ - group_begin_);
}

std::vector<CheckpointTensor> QuantizedWeight::Tensors() const {
  std::vector<CheckpointTensor> tensors;
  for (const auto* tensor : {&weight_, &scale_, &zero_, &group_index_}) {
    if (tensor->has_value()) tensors.push_back(**tensor);
  }
  return tensors;
}

absl::Status QuantizedWeight::Prepare(const Block& block) {
  TANDEM_CHECK(0 <= block.row_begin && block.row_begin <= block.row_end && block.row_end <= rows_);
  TANDEM_CHECK(0 <= block.column_begin && block.column_begin <= block.column_end &&
               block.column_end <= columns_);
  block_ = block;
  if (block.rows() == 0 || block.columns() == 0) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(PrepareGroups());
  TANDEM_RETURN_IF_ERROR(PrepareScales());
  TANDEM_RETURN_IF_ERROR(PrepareZeros());
  if (scheme_.layout != QuantizedLayout::kGptq && scheme_.layout != QuantizedLayout::kAwq) {
    return absl::OkStatus();
  }
  const int64_t codes = 32 / scheme_.bits;
  const bool gptq = scheme_.layout == QuantizedLayout::kGptq;
  const int64_t first = gptq ? block.column_begin / codes : block.column_begin;
  const int64_t last = gptq ? CeilDiv(block.column_end, codes) : block.column_end;
  const int64_t left = gptq ? block.row_begin : block.row_begin / codes;
  const int64_t right = gptq ? block.row_end : CeilDiv(block.row_end, codes);
  words_.resize((last - first) * (right - left));
  return weight_->CopyBlock(first, last, left, right, words_.data(), (right - left) * 4);
}

absl::Status QuantizedWeight::CheckRows(int64_t begin, int64_t end) {
  constexpr int64_t kRows = 1024;  // at once
  // Codes that fill their bits are all right; these may be no numbers of the format.
  const bool codes_too = scheme_.layout == QuantizedLayout::kFloat8 ||
                         (scheme_.layout == QuantizedLayout::kBytes && scheme_.bits == 4);
  std::vector<float> values(codes_too ? std::min(kRows, end - begin) * columns_ : 0);
  for (int64_t row = begin; row < end; row += kRows) {
    const Block block = {row, std::min(row + kRows, end), 0, columns_};
    TANDEM_RETURN_IF_ERROR(Prepare(block));
    if (!codes_too) continue;
    TANDEM_RETURN_IF_ERROR(
        ReadValues(block, DType::kF32, reinterpret_cast<std::byte*>(values.data()), columns_ * 4));
  }
  return absl::OkStatus();
}

absl::Status QuantizedWeight::PrepareGroups() {
  const int64_t groups = group_count();
  const int64_t size = scheme_.group_size == 0 ? columns_ : scheme_.group_size;
  group_begin_ = block_.column_begin / size;
  group_end_ = CeilDiv(block_.column_end, size);
  if (!group_index_) return absl::OkStatus();
  group_of_.resize(block_.columns());
  TANDEM_RETURN_IF_ERROR(
      group_index_->CopyRows(block_.column_begin, block_.column_end, group_of_.data()));
  for (int64_t i = 0; i < block_.columns(); ++i) {
    const int64_t column = block_.column_begin + i;
    const int64_t group = group_of_[i];
    if (group < 0 || group >= groups) {
      return Wrong(*group_index_, absl::StrCat(group, " at column ", column, ", expected 0 to ",
                                               groups - 1, ", the groups that have scales"));
    }
    if (!scheme_.act_order && group != column / size) {
      return Wrong(*group_index_,
                   absl::StrCat(group, " at column ", column, ", expected ", column / size,
                                " as columns in order have it; config.json would say desc_act"));
    }
  }
  if (scheme_.act_order) {
    const auto [least, most] = std::minmax_element(group_of_.begin(), group_of_.end());
    group_begin_ = *least;
    group_end_ = *most + 1;
  }
  return absl::OkStatus();
}

absl::Status QuantizedWeight::PrepareScales() {
  const int64_t groups = group_end_ - group_begin_;
  const bool by_group =
      scheme_.layout == QuantizedLayout::kGptq || scheme_.layout == QuantizedLayout::kAwq;
  const int64_t block_rows = scheme_.block_rows == 0 ? rows_ : scheme_.block_rows;
  const int64_t first = block_.row_begin / block_rows;
  const int64_t last = CeilDiv(block_.row_end, block_rows);
  const int64_t rows = last - first;
  const int64_t size = DTypeSize(scale_->dtype());
  std::vector<std::byte> raw(rows * groups * size);
  if (by_group) {
    TANDEM_RETURN_IF_ERROR(
        scale_->CopyBlock(group_begin_, group_end_, first, last, raw.data(), rows * size));
  } else if (scheme_.block_rows == 0) {
    TANDEM_RETURN_IF_ERROR(scale_->CopyAll(raw.data()));
  } else {
    TANDEM_RETURN_IF_ERROR(scale_->CopyRowBytes(first, last, group_begin_ * size, group_end_ * size,
                                                raw.data(), groups * size));
  }
  scales_.resize(rows * groups);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      const std::byte* at = raw.data() + (by_group ? g * rows + r : r * groups + g) * size;
      float value;
      if (scale_->dtype() == DType::kF32) {
        std::memcpy(&value, at, 4);
      } else {
        uint16_t bits;
        std::memcpy(&bits, at, 2);
        value =
            scale_->dtype() == DType::kF16 ? kernels::F16ToFloat(bits) : kernels::Bf16ToFloat(bits);
      }
      if (!std::isfinite(value * kLargestCode)) {
        return Wrong(*scale_, absl::StrCat(value, " at row ", (first + r) * block_rows, ", group ",
                                           group_begin_ + g, ", expected a number",
                                           std::isfinite(value) ? " that codes leave finite" : ""));
      }
      scales_[r * groups + g] = value;
    }
  }
  return absl::OkStatus();
}

absl::Status QuantizedWeight::PrepareZeros() {
  zeros_.clear();
  if (!zero_) return absl::OkStatus();
  const int64_t groups = group_end_ - group_begin_;
  const int64_t rows = block_.rows();
  const int64_t codes = 32 / scheme_.bits;
  const uint32_t mask = (1u << scheme_.bits) - 1;
  const int middle = scheme_.bits == 4 ? 8 : 0;
  // Zero points of one scale a matrix are one; else of each row and group.
  const int64_t zero_rows = scheme_.block_rows == 0 ? 1 : rows;
  zeros_.resize(zero_rows * groups);
  if (zero_->info().stored_type == "I8") {
    std::vector<int8_t> raw(zero_rows * groups);
    TANDEM_RETURN_IF_ERROR(scheme_.block_rows == 0
                               ? zero_->CopyAll(raw.data())
                               : zero_->CopyRowBytes(block_.row_begin, block_.row_end, group_begin_,
                                                     group_end_, raw.data(), groups));
    for (size_t i = 0; i < raw.size(); ++i) zeros_[i] = static_cast<int16_t>(raw[i] + middle);
  } else {
    const int64_t first = block_.row_begin / codes;
    const int64_t words = CeilDiv(block_.row_end, codes) - first;
    const bool over_outputs = scheme_.layout == QuantizedLayout::kPacked;
    std::vector<uint32_t> raw(words * groups);
    TANDEM_RETURN_IF_ERROR(over_outputs ? zero_->CopyBlock(first, first + words, group_begin_,
                                                           group_end_, raw.data(), groups * 4)
                                        : zero_->CopyBlock(group_begin_, group_end_, first,
                                                           first + words, raw.data(), words * 4));
    int shift_of[8] = {};
    for (int i = 0; i < codes; ++i) {
      shift_of[scheme_.layout == QuantizedLayout::kAwq ? kAwqOrder[i] : i] = i * scheme_.bits;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = block_.row_begin + r;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t word = row / codes - first;
        const uint32_t packed = raw[over_outputs ? word * groups + g : g * words + word];
        // Stored one less, 0 as the largest code.
        const uint32_t zero =
            ((packed >> shift_of[row % codes]) + (scheme_.zeros_less_one ? 1 : 0)) & mask;
        zeros_[r * groups + g] =
            static_cast<int16_t>(scheme_.bits == 4 ? static_cast<int>(zero) : Signed(zero));
      }
    }
  }
  const int lowest = scheme_.bits == 4 ? 0 : -128;
  const int highest = scheme_.bits == 4 ? 15 : 127;
  for (size_t i = 0; i < zeros_.size(); ++i) {
    const int zero = zeros_[i];
    if (zero >= lowest && zero <= highest && (!scheme_.symmetric || zero == middle)) continue;
    return Wrong(*zero_,
                 absl::StrCat("zero point ", zero - lowest, " at row ",
                              block_.row_begin + static_cast<int64_t>(i) / groups, ", expected ",
                              scheme_.symmetric ? absl::StrCat(middle - lowest,
                                                               " as config.json says that "
                                                               "codes are symmetric")
                                                : absl::StrCat("0 to ", highest - lowest)));
  }
  if (scheme_.symmetric) zeros_.clear();
  return absl::OkStatus();
}

absl::Status QuantizedWeight::DecodeCodes(const Block& block, int8_t* codes) const {
  const int64_t width = block.columns();
  const int64_t per_word = 32 / scheme_.bits;
  const uint32_t mask = (1u << scheme_.bits) - 1;
  const auto store = [&](uint32_t code) {
    return scheme_.bits == 4 ? static_cast<int8_t>(code & mask) : Signed(code);
  };
  if (scheme_.layout == QuantizedLayout::kGptq) {
    const int64_t first = block_.column_begin / per_word;
    for (int64_t k = block.column_begin; k < block.column_end; ++k) {
      const uint32_t* words = words_.data() + (k / per_word - first) * block_.rows();
      const int shift = static_cast<int>(k % per_word) * scheme_.bits;
      int8_t* to = codes + (k - block.column_begin);
      for (int64_t r = block.row_begin; r < block.row_end; ++r, to += width) {
        *to = store(words[r - block_.row_begin] >> shift);
      }
    }
    return absl::OkStatus();
  }
  if (scheme_.layout == QuantizedLayout::kAwq) {
    const int64_t first = block_.row_begin / per_word;
    const int64_t stride = CeilDiv(block_.row_end, per_word) - first;
    int shift_of[8];
    for (int i = 0; i < 8; ++i) shift_of[kAwqOrder[i]] = 4 * i;
    for (int64_t r = block.row_begin; r < block.row_end; ++r) {
      const uint32_t* words = words_.data() + (r / per_word - first);
      const int shift = shift_of[r % per_word];
      int8_t* to = codes + (r - block.row_begin) * width;
      for (int64_t k = block.column_begin; k < block.column_end; ++k) {
        *to++ = store(words[(k - block_.column_begin) * stride] >> shift);
      }
    }
    return absl::OkStatus();
  }
  if (scheme_.layout == QuantizedLayout::kPacked && scheme_.bits == 4) {
    // Words are little-endian: the bytes hold two codes each, in order.
    const int64_t first = block.column_begin / 2;
    const int64_t bytes = CeilDiv(block.column_end, 2) - first;
    std::vector<uint8_t> raw(bytes * block.rows());
    TANDEM_RETURN_IF_ERROR(weight_->CopyRowBytes(block.row_begin, block.row_end, first,
                                                 first + bytes, raw.data(), bytes));
    for (int64_t r = 0; r < block.rows(); ++r) {
      for (int64_t k = block.column_begin; k < block.column_end; ++k) {
        const uint8_t pair = raw[r * bytes + k / 2 - first];
        *codes++ = static_cast<int8_t>(k % 2 == 0 ? pair & 15 : pair >> 4);
      }
    }
    return absl::OkStatus();
  }
  TANDEM_RETURN_IF_ERROR(weight_->CopyRowBytes(block.row_begin, block.row_end, block.column_begin,
                                               block.column_end, codes, width));
  if (scheme_.layout == QuantizedLayout::kFloat8) return absl::OkStatus();
  for (int64_t i = 0; i < width * block.rows(); ++i) {
    if (scheme_.layout == QuantizedLayout::kPacked) {
      codes[i] = Signed(static_cast<uint8_t>(codes[i]));
    } else if (scheme_.bits == 4) {
      if (codes[i] < -8 || codes[i] > 7) {
        return Wrong(*weight_,
                     absl::StrCat("code ", codes[i], " at row ", block.row_begin + i / width,
                                  ", expected -8 to 7 as num_bits is 4"));
      }
      codes[i] = static_cast<int8_t>(codes[i] + 8);
    }
  }
  return absl::OkStatus();
}

absl::Status QuantizedWeight::ReadCodes(const Block& block, kernels::QuantizedRows dst) const {
  TANDEM_CHECK(format_.has_value());
  if (block.rows() == 0 || block.columns() == 0) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(DecodeCodes(block, dst.codes));
  if (format_->code_type == kernels::CodeType::kFloat8) {
    for (int64_t i = 0; i < block.rows() * block.columns(); ++i) {
      if ((dst.codes[i] & 0x7f) != 0x7f) continue;
      return NoNumber(block.row_begin + i / block.columns(),
                      block.column_begin + i % block.columns());
    }
  }
  const int64_t size = format_->group_size;
  const int64_t first = block.column_begin / size;
  const int64_t last = CeilDiv(block.column_end, size);
  size_t to = 0;
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    const size_t row = ScaleRow(r);
    for (int64_t g = first; g < last; ++g, ++to) {
      const size_t from = row + (GroupOf(g * size) - group_begin_);
      dst.scales[to] = scales_[from];
      if (format_->zero_points) dst.zeros[to] = static_cast<uint8_t>(zeros_[from]);
    }
  }
  return absl::OkStatus();
}

absl::Status QuantizedWeight::ReadValues(const Block& block, DType dtype, std::byte* dst,
                                         size_t dst_stride) const {
  if (block.rows() == 0 || block.columns() == 0) return absl::OkStatus();
  const int64_t width = block.columns();
  std::vector<int8_t> codes(width * block.rows());
  TANDEM_RETURN_IF_ERROR(DecodeCodes(block, codes.data()));
  const bool is_float = scheme_.layout == QuantizedLayout::kFloat8;
  float float8[256];
  for (int i = 0; is_float && i < 256; ++i)
    float8[i] = kernels::E4m3ToFloat(static_cast<uint8_t>(i));
  const int middle = scheme_.bits == 4 ? 8 : 0;
  for (int64_t r = block.row_begin; r < block.row_end; ++r) {
    const int8_t* row_codes = codes.data() + (r - block.row_begin) * width;
    std::byte* to = dst + (r - block.row_begin) * dst_stride;
    const size_t row = ScaleRow(r);
    for (int64_t k = 0; k < width; ++k) {
      const size_t at = row + (GroupOf(block.column_begin + k) - group_begin_);
      const float code =
          is_float ? float8[static_cast<uint8_t>(row_codes[k])]
                   : static_cast<float>(row_codes[k] - (zeros_.empty() ? middle : zeros_[at]));
      const float scale = scales_[at];
      if (dtype == DType::kF32) {
        const float value = code * scale;
        std::memcpy(to + k * 4, &value, 4);
      } else {
        const float value = ProductToOdd(code, scale);
        const uint16_t bits =
            dtype == DType::kF16 ? kernels::FloatToF16(value) : kernels::FloatToBf16(value);
        std::memcpy(to + k * 2, &bits, 2);
        if ((bits & 0x7fff) == (dtype == DType::kF16 ? 0x7c00 : 0x7f80)) {
          return Wrong(*weight_, absl::StrCat(code * scale, " at row ", r, ", expected what ",
                                              std::string(DTypeName(dtype)),
                                              " can hold; give another --dtype"));
        }
      }
      if (std::isnan(code)) {
        return NoNumber(r, block.column_begin + k);
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::loader
