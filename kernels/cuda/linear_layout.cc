#include <bit>
#include <numeric>

#include "kernels/backend.h"
#include "kernels/cuda/linear.h"

namespace tandem::kernels::cuda {

LinearLayout LinearLayout::Of(const LinearSpec& spec, bool has_bf16) {
  LinearLayout layout;
  layout.rows = static_cast<int32_t>(spec.rows);
  layout.columns = static_cast<int32_t>(spec.columns());
  layout.leaves = static_cast<int32_t>(spec.leaves.size());
  layout.run = static_cast<int32_t>(spec.leaf_size);
  if (spec.quant) {
    layout.format = spec.quant->code_type == CodeType::kFloat8 ? Format::kF8
                    : spec.quant->bits == 8                    ? Format::kI8
                                                               : Format::kI4;
    layout.scale_dtype = spec.quant->scale_dtype;
    layout.zero_points = spec.quant->zero_points;
    layout.run = static_cast<int32_t>(std::gcd(spec.quant->group_size, spec.leaf_size));
    layout.group_shift = std::countr_zero(static_cast<uint64_t>(spec.quant->group_size));
    layout.groups = static_cast<int32_t>(spec.group_end() - spec.group_begin());
    layout.group_offset = static_cast<int32_t>(spec.column_begin() % spec.quant->group_size);
  } else if (spec.dtype == DType::kF32) {
    layout.format = Format::kF32;
  } else {
    layout.format = spec.dtype == DType::kBF16 && has_bf16 ? Format::kBF16 : Format::kF16;
  }
  const int32_t chunk = layout.chunk();
  layout.run_chunks = (layout.run + chunk - 1) / chunk;
  layout.leaf_runs = static_cast<int32_t>(spec.leaf_size) / layout.run;
  const int32_t whole_runs = layout.columns / layout.run;
  const int32_t rest = layout.columns % layout.run;
  layout.chunks = whole_runs * layout.run_chunks + (rest + chunk - 1) / chunk;
  return layout;
}

}  // namespace tandem::kernels::cuda
