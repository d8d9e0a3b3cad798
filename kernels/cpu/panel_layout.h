// How the CPU backend stores weights and activations of a linear product.
//
// Rows lie in panels of 64 (16 at the end). A vector lane is an output row, and columns follow in
// order, so one token and many add alike and a panel is read as one stream. A panel is a chain of
// spans; a span is the columns of one leaf that have one scale:
//   floats     a leaf is one span: [columns, panel rows]; bfloat16 in pairs of
//              columns, [pairs, panel rows, 2], an odd last column with a zero
//   integers   an activation group (gcd(group, leaf) columns) is one span:
//              scales [panel rows], zero points u8 [panel rows] where there are
//              any, codes in quads of columns, zero-padded:
//     8 bits   u8 = code + 128, [quads, panel rows, 4]
//     4 bits   [pairs of quads, panel rows, 4]: the low nibbles are the first
//              quad, the high nibbles the second
// Every row takes the same number of bytes, so a range of leaves is contiguous in a panel, and a
// range of panels is contiguous in a matrix.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "kernels/linear_spec.h"

namespace tandem::kernels::cpu {

enum class WeightKind : uint8_t { kF32, kF16, kBF16, kInt8, kInt4 };
inline constexpr int kWeightKinds = 5;

inline constexpr int64_t kPanelRows = 64;
inline constexpr int64_t kTailRows = 16;

struct PanelLayout {
  int64_t full_panels = 0;
  int64_t tail_panels = 0;
  explicit PanelLayout(int64_t rows)
      : full_panels(rows / kPanelRows),
        tail_panels((rows % kPanelRows + kTailRows - 1) / kTailRows) {}
  int64_t panels() const { return full_panels + tail_panels; }
  int64_t padded_rows() const { return full_panels * kPanelRows + tail_panels * kTailRows; }
  int64_t first_row(int64_t panel) const {
    return panel < full_panels ? panel * kPanelRows
                               : full_panels * kPanelRows + (panel - full_panels) * kTailRows;
  }
  int64_t panel_rows(int64_t panel) const { return panel < full_panels ? kPanelRows : kTailRows; }
};

constexpr int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The spans of a row. Columns count from a leaf's begin.
struct SpanLayout {
  WeightKind kind = WeightKind::kF32;
  DType scale_dtype = DType::kF16;
  bool zero_points = false;
  int64_t leaf = 0;  // columns of a whole leaf
  int64_t span = 0;  // columns of a whole span

  explicit SpanLayout(const LinearSpec& spec) : leaf(spec.leaf_size), span(spec.leaf_size) {
    if (spec.quant.has_value()) {
      kind = spec.quant->bits == 8 ? WeightKind::kInt8 : WeightKind::kInt4;
      scale_dtype = spec.quant->scale_dtype;
      zero_points = spec.quant->zero_points;
      span = std::gcd(spec.quant->group_size, spec.leaf_size);
    } else {
      kind = spec.dtype == DType::kF32   ? WeightKind::kF32
             : spec.dtype == DType::kF16 ? WeightKind::kF16
                                         : WeightKind::kBF16;
    }
  }

  bool quantized() const { return kind == WeightKind::kInt8 || kind == WeightKind::kInt4; }
  // What is added to 8-bit codes so that they are unsigned, or is the zero of
  // 4-bit codes without zero points.
  int32_t offset() const {
    if (kind == WeightKind::kInt8) return 128;
    return kind == WeightKind::kInt4 && !zero_points ? 8 : 0;
  }

  // Bytes of one row: a span's scale and zero, its elements, all of a span, of a
  // leaf, of `columns` columns from a leaf's begin.
  int64_t head_bytes() const {
    return quantized() ? static_cast<int64_t>(DTypeSize(scale_dtype)) + (zero_points ? 1 : 0) : 0;
  }
  int64_t element_bytes(int64_t columns) const {
    switch (kind) {
      case WeightKind::kF32:
        return columns * 4;
      case WeightKind::kF16:
        return columns * 2;
      case WeightKind::kBF16:
        return RoundUp(columns, 2) * 2;
      case WeightKind::kInt8:
        return RoundUp(columns, 4);
      case WeightKind::kInt4:
        return RoundUp(columns, 8) / 2;
    }
    return 0;
  }
  int64_t span_bytes(int64_t columns) const { return head_bytes() + element_bytes(columns); }
  int64_t leaf_bytes(int64_t columns) const {
    const int64_t rest = columns % span;
    return columns / span * span_bytes(span) + (rest > 0 ? span_bytes(rest) : 0);
  }
  int64_t row_bytes(int64_t columns) const {
    const int64_t rest = columns % leaf;
    return columns / leaf * leaf_bytes(leaf) + (rest > 0 ? leaf_bytes(rest) : 0);
  }

  // Bytes of one token's activations of a span: fp32, bfloat16 pairs or s8 codes, a
  // short span padded with zeros.
  int64_t value_bytes() const {
    switch (kind) {
      case WeightKind::kF32:
      case WeightKind::kF16:
        return span * 4;
      case WeightKind::kBF16:
        return RoundUp(span, 2) * 2;
      case WeightKind::kInt8:
        return RoundUp(span, 4);
      case WeightKind::kInt4:
        return RoundUp(span, 8);
    }
    return 0;
  }
  int64_t spans_per_leaf() const { return leaf / span; }
  // The first column of a span.
  int64_t span_column(int64_t index) const {
    return index / spans_per_leaf() * leaf + index % spans_per_leaf() * span;
  }
  // Spans of `columns` columns from a leaf's begin; the index of the span at a column.
  int64_t spans(int64_t columns) const {
    return columns / leaf * spans_per_leaf() + (columns % leaf + span - 1) / span;
  }
};

// Rows [0, rows) of a packed matrix, perhaps a part of a larger one: neighbouring panels, and
// neighbouring leaves of each.
struct Segment {
  const std::byte* data = nullptr;  // the first panel
  int64_t rows = 0;
  int64_t row_bytes = 0;   // of the matrix in memory
  int64_t skip_bytes = 0;  // of each row, before our leaves

  const std::byte* panel(const PanelLayout& layout, int64_t p) const {
    return data + layout.first_row(p) * row_bytes + layout.panel_rows(p) * skip_bytes;
  }
};

}  // namespace tandem::kernels::cpu
