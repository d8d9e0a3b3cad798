#include "parallel/linear.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"

namespace tandem::parallel {
namespace {

using kernels::DType;
using kernels::DTypeSize;

// Reads rows of a vector as fp32.
absl::Status ReadVector(const WeightSource& source, Range rows, float* out) {
  if (rows.size() == 0) return absl::OkStatus();
  const size_t size = DTypeSize(source.dtype());
  std::vector<std::byte> raw(rows.size() * size);
  TANDEM_RETURN_IF_ERROR(source.CopyBlock(rows, {0, 1}, raw.data(), size));
  for (int64_t i = 0; i < rows.size(); ++i) {
    if (source.dtype() == DType::kF32) {
      std::memcpy(out + i, raw.data() + i * 4, 4);
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, raw.data() + i * 2, 2);
    out[i] = source.dtype() == DType::kF16 ? kernels::F16ToFloat(bits) : kernels::Bf16ToFloat(bits);
  }
  return absl::OkStatus();
}

absl::StatusOr<kernels::Buffer> Upload(kernels::Backend& backend,
                                       const std::vector<float>& values) {
  TANDEM_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(values.size() * sizeof(float)));
  backend.CopyFromHost(buffer.data(), values.data(), values.size() * sizeof(float));
  return buffer;
}

// "BF16", "8-bit codes in groups of 32 with F16 scales"
std::string FormatName(const WeightSource& source) {
  const std::optional<kernels::QuantFormat> quant = source.quant();
  if (!quant) return std::string(DTypeName(source.dtype()));
  const bool floats = quant->code_type == kernels::CodeType::kFloat8;
  return absl::StrCat(quant->bits, floats ? "-bit floats" : "-bit codes", " in groups of ",
                      quant->group_size, " with ", std::string(DTypeName(quant->scale_dtype)),
                      " scales", quant->zero_points ? " and zero points" : "");
}

// Reads rows [begin, end) of several sources as if they were one matrix: calls
// read(slice, its rows, index of their first row in the output).
template <typename Read>
absl::Status ReadSlices(std::span<const RowSlice> slices, int64_t begin, int64_t end,
                        const Read& read) {
  int64_t first_row = 0;  // of the slice, in the merged matrix
  for (const RowSlice& slice : slices) {
    const int64_t from = std::max(begin, first_row);
    const int64_t to = std::min(end, first_row + slice.rows.size());
    if (from < to) {
      const Range rows = {slice.rows.begin + from - first_row, slice.rows.begin + to - first_row};
      TANDEM_RETURN_IF_ERROR(read(slice, rows, from - begin));
    }
    first_row += slice.rows.size();
  }
  return absl::OkStatus();
}

kernels::LinearSpec WholeSpec(const WeightSource& source, int64_t leaf_size) {
  return {.dtype = source.dtype(),
          .quant = source.quant(),
          .rows = source.rows(),
          .global_columns = source.columns(),
          .leaf_size = leaf_size,
          .leaves = {0, (source.columns() + leaf_size - 1) / leaf_size}};
}

// The slices' rows as they were packed before; nullopt where a slice was not.
std::optional<std::vector<kernels::PackedRows>> PackedBefore(const kernels::LinearSpec& spec,
                                                             std::span<const RowSlice> slices) {
  std::vector<kernels::PackedRows> rows;
  for (const RowSlice& slice : slices) {
    const kernels::LinearSpec whole = WholeSpec(*slice.weight, spec.leaf_size);
    kernels::PackedReader read = slice.weight->Packed(whole);
    if (read == nullptr) return std::nullopt;
    rows.push_back(
        {whole, slice.rows.begin, slice.rows.end, std::move(read), slice.weight->Mapped(whole)});
  }
  return rows;
}

// Packs the weight of `spec` from the slices' rows and the spec's columns.
absl::StatusOr<std::unique_ptr<kernels::LinearWeight>> Pack(kernels::Backend& backend,
                                                            const kernels::LinearSpec& spec,
                                                            std::span<const RowSlice> slices) {
  if (const auto rows = PackedBefore(spec, slices)) {
    const bool mapped = std::ranges::all_of(
        *rows, [](const kernels::PackedRows& of) { return of.mapped != nullptr; });
    return mapped ? backend.MapPackedRows(spec, *rows) : backend.CopyPackedRows(spec, *rows);
  }
  const Range columns = {spec.column_begin(), spec.column_begin() + spec.columns()};
  for (const RowSlice& slice : slices) {
    TANDEM_RETURN_IF_ERROR(slice.weight->Prepare(slice.rows, columns));
  }
  if (!spec.quant) {
    const size_t row_bytes = columns.size() * DTypeSize(spec.dtype);
    return backend.PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* dst) {
      return ReadSlices(slices, begin, end, [&](const RowSlice& slice, Range rows, int64_t at) {
        return slice.weight->CopyBlock(rows, columns, dst + at * row_bytes, row_bytes);
      });
    });
  }
  const int64_t groups = spec.group_end() - spec.group_begin();
  return backend.PackQuantized(spec, [&](int64_t begin, int64_t end, kernels::QuantizedRows dst) {
    return ReadSlices(slices, begin, end, [&](const RowSlice& slice, Range rows, int64_t at) {
      return slice.weight->CopyQuantized(
          rows, columns,
          {.codes = dst.codes + at * columns.size(),
           .scales = dst.scales + at * groups,
           .zeros = spec.quant->zero_points ? dst.zeros + at * groups : nullptr});
    });
  });
}

}  // namespace

absl::Status WeightSource::CopyQuantized(Range, Range, kernels::QuantizedRows) const {
  TANDEM_CHECK(quant().has_value());
  return absl::OkStatus();
}

kernels::PackedReader WeightSource::Packed(const kernels::LinearSpec&) const { return nullptr; }

absl::StatusOr<ColumnParallelLinear> ColumnParallelLinear::Load(kernels::Backend& backend,
                                                                std::span<const RowSlice> slices) {
  TANDEM_CHECK(!slices.empty());
  const WeightSource& first = *slices[0].weight;
  kernels::LinearSpec spec;
  spec.dtype = first.dtype();
  spec.quant = first.quant();
  spec.global_columns = first.columns();
  spec.leaf_size = kColumnLeafSize;
  spec.leaves = {0, (first.columns() + kColumnLeafSize - 1) / kColumnLeafSize};
  bool any_bias = false;
  for (const RowSlice& slice : slices) {
    const bool same = slice.weight->quant() == spec.quant &&
                      (spec.quant.has_value() || slice.weight->dtype() == spec.dtype);
    if (!same) {
      return absl::InvalidArgumentError(
          absl::StrCat(slice.weight->name(), ": found ", FormatName(*slice.weight), ", expected ",
                       FormatName(first), " as ", first.name(),
                       " has; store both in one type, or give --dtype"));
    }
    TANDEM_CHECK(slice.weight->columns() == spec.global_columns);
    spec.rows += slice.rows.size();
    any_bias = any_bias || slice.bias != nullptr;
  }
  ColumnParallelLinear layer;
  TANDEM_ASSIGN_OR_RETURN(layer.weight_, Pack(backend, spec, slices));
  if (any_bias && spec.rows > 0) {
    std::vector<float> bias(spec.rows);
    int64_t row = 0;
    for (const RowSlice& slice : slices) {
      if (slice.bias != nullptr) {
        TANDEM_RETURN_IF_ERROR(ReadVector(*slice.bias, slice.rows, bias.data() + row));
      }
      row += slice.rows.size();
    }
    TANDEM_ASSIGN_OR_RETURN(layer.bias_, Upload(backend, bias));
  }
  return layer;
}

absl::StatusOr<RowParallelLinear> RowParallelLinear::Load(kernels::Backend& backend,
                                                          WeightSource& weight,
                                                          const WeightSource* bias,
                                                          int64_t leaf_size,
                                                          kernels::LeafRange leaves) {
  kernels::LinearSpec spec;
  spec.dtype = weight.dtype();
  spec.quant = weight.quant();
  spec.rows = weight.rows();
  spec.global_columns = weight.columns();
  spec.leaf_size = leaf_size;
  spec.leaves = leaves;
  const RowSlice all = {&weight, nullptr, {0, weight.rows()}};
  RowParallelLinear layer;
  TANDEM_ASSIGN_OR_RETURN(layer.weight_, Pack(backend, spec, {&all, 1}));
  if (bias != nullptr) {
    TANDEM_ASSIGN_OR_RETURN(layer.bias_, LoadVector(backend, *bias));
  }
  return layer;
}

absl::StatusOr<std::unique_ptr<kernels::LinearWeight>> PackWhole(kernels::Backend& backend,
                                                                 WeightSource& source,
                                                                 int64_t leaf_size) {
  const RowSlice all = {.weight = &source, .rows = {0, source.rows()}};
  return Pack(backend, WholeSpec(source, leaf_size), {&all, 1});
}

absl::StatusOr<kernels::Buffer> LoadVector(kernels::Backend& backend, const WeightSource& source) {
  std::vector<float> values(source.rows());
  TANDEM_RETURN_IF_ERROR(ReadVector(source, {0, source.rows()}, values.data()));
  return Upload(backend, values);
}

}  // namespace tandem::parallel
