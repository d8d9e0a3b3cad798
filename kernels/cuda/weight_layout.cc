#include "kernels/cuda/weight_layout.h"

#include <bit>
#include <numeric>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace tandem::kernels::cuda {

WeightLayout WeightLayout::Of(const LinearSpec& spec, bool has_bf16) {
  WeightLayout layout;
  layout.rows = static_cast<int32_t>(spec.rows);
  layout.columns = static_cast<int32_t>(spec.columns());
  layout.leaves = static_cast<int32_t>(spec.leaves.size());
  layout.span = static_cast<int32_t>(spec.leaf_size);
  if (spec.quant) {
    layout.format = spec.quant->code_type == CodeType::kFloat8 ? Format::kF8
                    : spec.quant->bits == 8                    ? Format::kI8
                                                               : Format::kI4;
    layout.scale_dtype = spec.quant->scale_dtype;
    layout.zero_points = spec.quant->zero_points;
    layout.span = static_cast<int32_t>(std::gcd(spec.quant->group_size, spec.leaf_size));
    layout.group_shift = std::countr_zero(static_cast<uint64_t>(spec.quant->group_size));
    layout.groups = static_cast<int32_t>(spec.group_end() - spec.group_begin());
    layout.group_offset = static_cast<int32_t>(spec.column_begin() % spec.quant->group_size);
  } else if (spec.dtype == DType::kF32) {
    layout.format = Format::kF32;
  } else {
    layout.format = spec.dtype == DType::kBF16 && has_bf16 ? Format::kBF16 : Format::kF16;
  }
  const int32_t chunk = layout.chunk();
  layout.span_chunks = (layout.span + chunk - 1) / chunk;
  layout.leaf_spans = static_cast<int32_t>(spec.leaf_size) / layout.span;
  const int32_t whole_spans = layout.columns / layout.span;
  const int32_t rest = layout.columns % layout.span;
  layout.chunks = whole_spans * layout.span_chunks + (rest + chunk - 1) / chunk;
  return layout;
}

WeightPlaces WeightPlaces::Of(const WeightLayout& layout, bool with_tree) {
  const auto align = [](size_t bytes) { return (bytes + 255) / 256 * 256; };
  WeightPlaces places;
  places.scales = align(layout.rows * layout.row_bytes());
  places.zeros = places.scales + align(layout.scale_bytes());
  places.tree = places.zeros + align(layout.zero_bytes());
  const bool empty = layout.rows == 0 || layout.columns == 0;
  places.bytes = empty ? 0 : places.tree + (with_tree ? align(layout.leaves * sizeof(int32_t)) : 0);
  return places;
}

}  // namespace tandem::kernels::cuda

namespace tandem::kernels {
namespace {

class CudaLayout : public DeviceLayout {
 public:
  bool memory_is_host() const override { return false; }
  bool KeepsLeafTree() const override { return false; }
  bool SupportsFormat(const QuantFormat&) const override { return true; }
  bool SamplesOnDevice() const override { return true; }
  size_t PackedBytes(const LinearSpec& spec) const override {
    // FP16 in place of BF16 takes as much.
    const auto layout = cuda::WeightLayout::Of(spec, /*has_bf16=*/true);
    return cuda::WeightPlaces::Of(layout, /*with_tree=*/false).bytes;
  }
};

}  // namespace

std::unique_ptr<DeviceLayout> MakeCudaLayout() { return std::make_unique<CudaLayout>(); }

}  // namespace tandem::kernels
