// Packs weights into panels (panel_layout.h). Done once at load, so it is plain C++.
#include <cstring>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/cpu/linear_kernels.h"

namespace tandem::kernels::cpu {
namespace {

// Steps of `pair` columns side by side: [steps, panel_rows, pair].
template <typename T>
void PackElements(const T* in, int64_t rows, int64_t row_stride, int64_t columns, int64_t pair,
                  int64_t panel_rows, T* out) {
  // One cache line of the source at a time, so that both sides stay in
  // the first-level cache.
  const int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  const int64_t padded = RoundUp(columns, pair);
  for (int64_t k0 = 0; k0 < padded; k0 += line) {
    const int64_t k1 = std::min(k0 + line, padded);
    for (int64_t r = 0; r < panel_rows; ++r) {
      for (int64_t k = k0; k < k1; ++k) {
        out[(k / pair * panel_rows + r) * pair + k % pair] =
            r < rows && k < columns ? in[r * row_stride + k] : T{0};
      }
    }
  }
}

void StoreScale(DType dtype, float value, std::byte* out) {
  if (dtype == DType::kF32) {
    std::memcpy(out, &value, sizeof(value));
    return;
  }
  const uint16_t bits = dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
  std::memcpy(out, &bits, sizeof(bits));
}

// Codes of one row and span, n columns of them, as unsigned bytes in out.
void PackCodes(const SpanLayout& layout, const int8_t* codes, int64_t n, int64_t panel_rows,
               std::byte* out) {
  if (layout.kind == WeightKind::kInt8) {
    for (int64_t k = 0; k < n; k += 4) {
      uint8_t quad[4] = {};
      for (int64_t i = 0; i < std::min<int64_t>(4, n - k); ++i) {
        quad[i] = static_cast<uint8_t>(codes[k + i] + 128);
      }
      std::memcpy(out + k / 4 * panel_rows * 4, quad, 4);
    }
    return;
  }
  for (int64_t k = 0; k < n; k += 8) {
    uint8_t quad[4] = {};
    for (int64_t i = 0; i < std::min<int64_t>(8, n - k); ++i) {
      quad[i % 4] |= static_cast<uint8_t>((codes[k + i] & 15) << (i / 4 * 4));
    }
    std::memcpy(out + k / 8 * panel_rows * 4, quad, 4);
  }
}

}  // namespace

void PackPanel(const SpanLayout& layout, const std::byte* rows_data, int64_t rows, int64_t columns,
               int64_t panel_rows, std::byte* panel) {
  const bool wide = layout.kind == WeightKind::kF32;
  const int64_t size = wide ? 4 : 2;
  for (int64_t k = 0; k < columns; k += layout.leaf) {
    const int64_t n = std::min(layout.leaf, columns - k);
    const std::byte* in = rows_data + k * size;
    if (wide) {
      PackElements(reinterpret_cast<const uint32_t*>(in), rows, columns, n, 1, panel_rows,
                   reinterpret_cast<uint32_t*>(panel));
    } else {
      PackElements(reinterpret_cast<const uint16_t*>(in), rows, columns, n,
                   layout.kind == WeightKind::kBF16 ? 2 : 1, panel_rows,
                   reinterpret_cast<uint16_t*>(panel));
    }
    panel += panel_rows * layout.leaf_bytes(n);
  }
}

void PackQuantizedPanel(const SpanLayout& layout, const QuantizedRows& rows_data, int64_t rows,
                        int64_t columns, int64_t first_column, int64_t group_size, int64_t groups,
                        int64_t panel_rows, std::byte* panel) {
  const int64_t scale_bytes = static_cast<int64_t>(DTypeSize(layout.scale_dtype));
  for (int64_t leaf = 0; leaf < columns; leaf += layout.leaf) {
    const int64_t leaf_end = std::min(leaf + layout.leaf, columns);
    for (int64_t k = leaf; k < leaf_end; k += layout.span) {
      const int64_t n = std::min(layout.span, leaf_end - k);
      const int64_t group = (first_column + k) / group_size - first_column / group_size;
      TANDEM_CHECK(group < groups);
      std::byte* codes = panel + panel_rows * layout.head_bytes();
      std::memset(panel, 0, panel_rows * layout.span_bytes(n));
      for (int64_t r = 0; r < rows; ++r) {
        StoreScale(layout.scale_dtype, rows_data.scales[r * groups + group],
                   panel + r * scale_bytes);
        if (layout.zero_points) {
          panel[panel_rows * scale_bytes + r] = std::byte{rows_data.zeros[r * groups + group]};
        }
        PackCodes(layout, rows_data.codes + r * columns + k, n, panel_rows, codes + r * 4);
      }
      panel += panel_rows * layout.span_bytes(n);
    }
  }
}

}  // namespace tandem::kernels::cpu
