#include "runtime/model/weight_format.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::model {
namespace {

using kernels::CodeType;
using kernels::DType;
using kernels::QuantFormat;

constexpr int64_t kDefaultGroup = 32;
constexpr int64_t kDefaultFloatGroup = 128;  // as checkpoints have it

// Of codes that are made here. Floats reach to 448, so that their scales can be below what FP16
// holds well.
QuantFormat NewFormat(const WeightRequest& request) {
  const bool floats = request.code_type == CodeType::kFloat8;
  return {.bits = request.bits,
          .group_size = request.group_size != 0 ? request.group_size
                        : floats                ? kDefaultFloatGroup
                                                : kDefaultGroup,
          .scale_dtype = floats ? DType::kF32 : DType::kF16,
          .code_type = request.code_type};
}

absl::StatusOr<WeightRequest> ParseOne(std::string_view option, std::string_view name,
                                       int64_t group_size) {
  if (name == "auto") return WeightRequest{};
  if (name == "fp32") return WeightRequest{.dtype = DType::kF32};
  if (name == "fp16") return WeightRequest{.dtype = DType::kF16};
  if (name == "bf16") return WeightRequest{.dtype = DType::kBF16};
  if (name == "int8") return WeightRequest{.bits = 8, .group_size = group_size};
  if (name == "int4") return WeightRequest{.bits = 4, .group_size = group_size};
  if (name == "fp8") {
    return WeightRequest{.bits = 8, .group_size = group_size, .code_type = CodeType::kFloat8};
  }
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(option), ": found '", std::string(name),
                   "', expected auto, fp32, fp16, bf16, fp8, int8 or int4"));
}

}  // namespace

std::string FormatName(const WeightFormat& format) {
  if (!format.quant) return std::string(kernels::DTypeName(format.dtype));
  return absl::StrCat(format.quant->code_type == CodeType::kFloat8 ? "FP" : "INT",
                      format.quant->bits, ", groups of ", format.quant->group_size,
                      format.quant->zero_points ? ", zero points" : "");
}

WeightFormat WeightRequest::Of(const WeightFormat& stored) const {
  if (bits != 0) {
    if (stored.quant && stored.quant->bits == bits && stored.quant->code_type == code_type &&
        (group_size == 0 || stored.quant->group_size == group_size)) {
      return stored;
    }
    return {.dtype = stored.dtype, .quant = NewFormat(*this)};
  }
  if (dtype) return {.dtype = *dtype, .quant = std::nullopt};
  return stored;
}

WeightFormat WeightRequest::OfAll(std::span<const WeightFormat> stored) const {
  const WeightFormat first = Of(stored.front());
  std::optional<DType> elements;
  bool alike = true;
  for (const WeightFormat& format : stored) {
    const WeightFormat held = Of(format);
    alike &= held.quant == first.quant && (held.quant || held.dtype == first.dtype);
    if (held.quant) continue;
    // FP16 and BF16 hold all of each other's values in FP32 alone.
    elements = !elements || *elements == held.dtype ? held.dtype : DType::kF32;
  }
  if (alike) return first;
  if (bits != 0) {
    return Of({.dtype = first.dtype, .quant = std::nullopt});
  }
  return {.dtype = elements.value_or(DType::kBF16), .quant = std::nullopt};
}

absl::StatusOr<WeightRequests> WeightRequests::Parse(std::string_view dtype, int64_t group_size,
                                                     std::string_view head_dtype) {
  if (group_size != 0 && group_size != 32 && group_size != 64 && group_size != 128) {
    return absl::InvalidArgumentError(
        absl::StrCat("--group-size: found ", group_size, ", expected 32, 64 or 128"));
  }
  WeightRequests requests;
  TANDEM_ASSIGN_OR_RETURN(requests.body, ParseOne("--dtype", dtype, group_size));
  TANDEM_ASSIGN_OR_RETURN(requests.head, ParseOne("--head-dtype", head_dtype, group_size));
  if (group_size != 0 && requests.body.bits == 0 && requests.head.bits == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--group-size: found ", group_size,
                     ", expected none without --dtype int8, int4 or fp8; give that too"));
  }
  if (head_dtype == "auto") {
    requests.head = requests.body;
    if (requests.body.bits != 0) requests.head.bits = 8;
    if (requests.body.code_type == CodeType::kFloat8) requests.head = {};
  }
  return requests;
}

absl::Status WeightRequests::Check(const kernels::Backend& backend) const {
  for (const auto& [option, request] : {std::pair("--dtype", body), {"--head-dtype", head}}) {
    if (request.bits == 0 || backend.SupportsFormat(NewFormat(request))) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(option,
                     ": found fp8, expected auto, fp32, fp16, bf16, int8 or int4 with --device "
                     "cpu, which multiplies no floats of 8 bits; use --device cuda"));
  }
  return absl::OkStatus();
}

}  // namespace tandem::model
