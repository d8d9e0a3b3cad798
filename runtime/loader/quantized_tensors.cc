#include "runtime/loader/quantized_tensors.h"

#include <algorithm>

namespace tandem::loader {
namespace {

// Groups of a QuantFormat that stands for wider ones.
constexpr int64_t kFormatGroup = 128;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string WeightName(const QuantizedScheme& scheme, const std::string& module) {
  switch (scheme.layout) {
    case QuantizedLayout::kGptq:
    case QuantizedLayout::kAwq:
      return module + ".qweight";
    case QuantizedLayout::kPacked:
      return module + ".weight_packed";
    case QuantizedLayout::kBytes:
    case QuantizedLayout::kFloat8:
      break;
  }
  return module + ".weight";
}

std::string ScaleName(const QuantizedScheme& scheme, const Checkpoint& checkpoint,
                      const std::string& module) {
  if (scheme.layout == QuantizedLayout::kGptq || scheme.layout == QuantizedLayout::kAwq) {
    return module + ".scales";
  }
  const std::string inverse = module + ".weight_scale_inv";
  return checkpoint.Has(inverse) ? inverse : module + ".weight_scale";
}

// Scales or zero points that are stored by output.
std::vector<int64_t> ScaleShape(const QuantizedScheme& scheme, const Checkpoint& checkpoint,
                                const std::string& name, int64_t rows, int64_t columns) {
  const int64_t groups = GroupCount(scheme, columns);
  const auto info = checkpoint.Find(name);
  const std::vector<int64_t> found = info.ok() ? (*info)->shape : std::vector<int64_t>();
  if (scheme.block_rows == 0) {
    // One of the whole matrix is written in three ways: [], [1] and [1, 1].
    const bool one = info.ok() && found.size() <= 2 &&
                     std::all_of(found.begin(), found.end(), [](int64_t n) { return n == 1; });
    return one ? found : std::vector<int64_t>{1};
  }
  const int64_t scale_rows = CeilDiv(rows, scheme.block_rows);
  if (groups == 1 && found.size() == 1) return {scale_rows};
  return {scale_rows, groups};
}

std::string ZeroName(const QuantizedScheme& scheme, const std::string& module) {
  switch (scheme.layout) {
    case QuantizedLayout::kGptq:
    case QuantizedLayout::kAwq:
      return module + ".qzeros";
    case QuantizedLayout::kPacked:
    case QuantizedLayout::kBytes:
      return scheme.symmetric ? "" : module + ".weight_zero_point";
    case QuantizedLayout::kFloat8:
      break;
  }
  return "";
}

std::string GroupIndexName(const QuantizedScheme& scheme, const std::string& module) {
  return scheme.layout == QuantizedLayout::kGptq ? module + ".g_idx" : module + ".weight_g_idx";
}

}  // namespace

QuantizedNames NamesOf(const QuantizedScheme& scheme, const Checkpoint& checkpoint,
                       const std::string& module) {
  return {.weight = WeightName(scheme, module),
          .scale = ScaleName(scheme, checkpoint, module),
          .zero = ZeroName(scheme, module),
          .group_index = GroupIndexName(scheme, module)};
}

int64_t GroupCount(const QuantizedScheme& scheme, int64_t columns) {
  return scheme.group_size == 0 ? 1 : CeilDiv(columns, scheme.group_size);
}

std::vector<ExpectedTensor> QuantizedTensors(const QuantizedScheme& scheme,
                                             const Checkpoint& checkpoint,
                                             const std::string& module, int64_t rows,
                                             int64_t columns) {
  const std::vector<std::string> kInt32 = {"I32", "U32"};
  const std::vector<std::string> kFloats = {"F32", "F16", "BF16"};
  const int64_t codes = 32 / scheme.bits;  // of a word
  const int64_t groups = GroupCount(scheme, columns);
  const auto [weight, scale, zero, group_index] = NamesOf(scheme, checkpoint, module);
  std::vector<ExpectedTensor> tensors;
  switch (scheme.layout) {
    case QuantizedLayout::kGptq:
      tensors = {{weight, {CeilDiv(columns, codes), rows}, kInt32},
                 {scale, {groups, rows}, kFloats},
                 {zero, {groups, CeilDiv(rows, codes)}, kInt32}};
      break;
    case QuantizedLayout::kAwq:
      tensors = {{weight, {columns, CeilDiv(rows, codes)}, kInt32},
                 {scale, {groups, rows}, kFloats},
                 {zero, {groups, CeilDiv(rows, codes)}, kInt32}};
      break;
    case QuantizedLayout::kPacked:
      tensors = {{weight, {rows, CeilDiv(columns, codes)}, kInt32},
                 {scale, ScaleShape(scheme, checkpoint, scale, rows, columns), kFloats}};
      if (!zero.empty()) {
        // Packed over outputs by newer versions, of one scale a matrix never.
        const auto info = checkpoint.Find(zero);
        const bool bytes = scheme.block_rows == 0 || (info.ok() && (*info)->stored_type == "I8");
        tensors.push_back(
            bytes
                ? ExpectedTensor{zero, ScaleShape(scheme, checkpoint, zero, rows, columns), {"I8"}}
                : ExpectedTensor{zero, {CeilDiv(rows, codes), groups}, kInt32});
      }
      break;
    case QuantizedLayout::kBytes:
    case QuantizedLayout::kFloat8:
      tensors = {
          {weight, {rows, columns}, {scheme.layout == QuantizedLayout::kBytes ? "I8" : "F8_E4M3"}},
          {scale, ScaleShape(scheme, checkpoint, scale, rows, columns), kFloats}};
      if (!zero.empty()) {
        tensors.push_back({zero, ScaleShape(scheme, checkpoint, zero, rows, columns), {"I8"}});
      }
      break;
  }
  if (scheme.act_order) tensors.push_back({group_index, {columns}, kInt32});
  return tensors;
}

bool HasQuantized(const QuantizedScheme& scheme, const Checkpoint& checkpoint,
                  const std::string& module) {
  const auto info = checkpoint.Find(WeightName(scheme, module));
  return info.ok() && !(*info)->dtype.has_value();
}

std::optional<kernels::QuantFormat> QuantizedFormat(const QuantizedScheme& scheme,
                                                    const Checkpoint& checkpoint,
                                                    const std::string& module, int64_t columns) {
  if (scheme.act_order) return std::nullopt;
  if (scheme.bits == 8 && !scheme.symmetric) return std::nullopt;
  const int64_t group = scheme.group_size;
  kernels::QuantFormat format = {.bits = scheme.bits, .zero_points = !scheme.symmetric};
  if (group == 32 || group == 64) {
    format.group_size = group;
  } else if (group == 0 || group % kFormatGroup == 0 || group >= columns) {
    format.group_size = kFormatGroup;
  } else {
    return std::nullopt;
  }
  const auto scale = checkpoint.Find(ScaleName(scheme, checkpoint, module));
  if (scheme.layout == QuantizedLayout::kFloat8) format.code_type = kernels::CodeType::kFloat8;
  if (scale.ok() && (*scale)->dtype.has_value()) format.scale_dtype = *(*scale)->dtype;
  return format;
}

}  // namespace tandem::loader
