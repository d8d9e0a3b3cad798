#include "kernels/cuda/cuda_weight.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/math.h"

namespace tandem::kernels::cuda {
namespace {

// Calls copy(first column, columns, byte of the row) for each span.
template <typename Copy>
void ForEachSpan(const WeightLayout& layout, const Copy& copy) {
  int64_t at = 0;
  for (int32_t column = 0; column < layout.columns; column += layout.span) {
    copy(column, std::min(layout.span, layout.columns - column), at);
    at += int64_t{16} * layout.span_chunks;
  }
}

}  // namespace

CudaLinearWeight::CudaLinearWeight(const LinearSpec& spec, const WeightLayout& layout,
                                   bool with_tree, Buffer data)
    : LinearWeight(spec),
      layout(layout),
      places(WeightPlaces::Of(layout, with_tree)),
      with_tree_(with_tree),
      data_(std::move(data)) {}

CudaLinearWeight::CudaLinearWeight(const LinearSpec& spec, const WeightLayout& layout,
                                   bool with_tree, std::byte* const* slot, size_t offset)
    : LinearWeight(spec),
      layout(layout),
      places(WeightPlaces::Of(layout, with_tree)),
      with_tree_(with_tree),
      slot_(slot),
      offset_(offset) {}

LinearPointers CudaLinearWeight::pointers() const {
  if (places.bytes == 0) return {};
  const std::byte* const base = slot_ != nullptr ? *slot_ + offset_ : data();
  return {.weight = base,
          .scales = base + places.scales,
          .zeros = reinterpret_cast<const uint8_t*>(base + places.zeros),
          .tree = with_tree_ ? reinterpret_cast<const int32_t*>(base + places.tree) : nullptr};
}

void LayOutRows(const WeightLayout& layout, const std::byte* rows, int64_t count, bool to_half,
                std::byte* dst) {
  const int64_t size = layout.format == Format::kF32 ? 4 : 2;
  std::memset(dst, 0, count * layout.row_bytes());
  for (int64_t r = 0; r < count; ++r) {
    const std::byte* const row = rows + r * layout.columns * size;
    std::byte* const out = dst + r * layout.row_bytes();
    ForEachSpan(layout, [&](int64_t column, int64_t n, int64_t at) {
      if (!to_half) {
        std::memcpy(out + at, row + column * size, n * size);
        return;
      }
      for (int64_t i = 0; i < n; ++i) {
        uint16_t bits;
        std::memcpy(&bits, row + (column + i) * size, size);
        bits = FloatToF16(Bf16ToFloat(bits));
        std::memcpy(out + at + i * size, &bits, size);
      }
    });
  }
}

void LayOutCodes(const WeightLayout& layout, const int8_t* codes, int64_t count, std::byte* dst) {
  std::memset(dst, 0, count * layout.row_bytes());
  for (int64_t r = 0; r < count; ++r) {
    const int8_t* const row = codes + r * layout.columns;
    auto* const out = reinterpret_cast<uint8_t*>(dst + r * layout.row_bytes());
    ForEachSpan(layout, [&](int64_t column, int64_t n, int64_t at) {
      for (int64_t i = 0; i < n; ++i) {
        const int code = row[column + i];
        if (layout.format == Format::kF8) {
          out[at + i] = static_cast<uint8_t>(code);
        } else if (layout.format == Format::kI8) {
          out[at + i] = static_cast<uint8_t>(code + 128);
        } else {
          out[at + i / 2] |= static_cast<uint8_t>(code << (i % 2 * 4));
        }
      }
    });
  }
}

}  // namespace tandem::kernels::cuda
