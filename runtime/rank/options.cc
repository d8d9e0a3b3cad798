#include "runtime/rank/options.h"

#include "absl/strings/str_cat.h"

namespace tandem::rank {

absl::StatusOr<kernels::KvDType> KvDType(const std::string& name, kernels::DType weights) {
  if (name == "auto") return kernels::KvDTypeOf(weights);
  if (name == "fp32") return kernels::KvDType::kF32;
  if (name == "fp16") return kernels::KvDType::kF16;
  if (name == "bf16") return kernels::KvDType::kBF16;
  if (name == "int8") return kernels::KvDType::kI8;
  return absl::InvalidArgumentError(
      absl::StrCat("--kv-dtype: found '", name, "', expected auto, fp32, fp16, bf16 or int8"));
}

}  // namespace tandem::rank
