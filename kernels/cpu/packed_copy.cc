#include "kernels/cpu/packed_copy.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/base/status_macros.h"

namespace tandem::kernels::cpu {
namespace {

// Rows lie side by side in units: a scale, a zero point, a step's elements. Calls fn(offset, unit):
// row l of a panel of P rows has that unit at P * offset + l * unit.
template <typename Fn>
void ForEachUnit(const RunLayout& layout, int64_t columns, const Fn& fn) {
  const int64_t step = layout.kind == WeightKind::kF16 ? 2 : 4;
  int64_t offset = 0;
  for (int64_t leaf = 0; leaf < columns; leaf += layout.leaf) {
    const int64_t leaf_end = std::min(leaf + layout.leaf, columns);
    for (int64_t k = leaf; k < leaf_end; k += layout.run) {
      if (layout.quantized()) {
        const int64_t scale = static_cast<int64_t>(DTypeSize(layout.scale_dtype));
        fn(offset, scale);
        if (layout.zero_points) fn(offset + scale, 1);
        offset += layout.head_bytes();
      }
      const int64_t bytes = layout.element_bytes(std::min(layout.run, leaf_end - k));
      for (int64_t b = 0; b < bytes; b += step) fn(offset + b, step);
      offset += bytes;
    }
  }
}

// A run of rows of one panel of a whole matrix.
struct Piece {
  int64_t panel = 0;  // its first row
  int64_t panel_rows = 0;
  int64_t lane = 0;  // of the first row
  int64_t rows = 0;
};

// The rows from `row` on, `most` of them or those of its panel.
Piece PieceAt(const PanelLayout& whole, int64_t row, int64_t most) {
  Piece piece;
  piece.panel_rows = row < whole.full_panels * kPanelRows ? kPanelRows : kTailRows;
  piece.panel = row / piece.panel_rows * piece.panel_rows;
  piece.lane = row - piece.panel;
  piece.rows = std::min(most, piece.panel_rows - piece.lane);
  return piece;
}

}  // namespace

absl::Status CopyPackedPanel(const LinearSpec& spec, std::span<const PackedRows> rows,
                             int64_t begin, int64_t end, int64_t padded, std::byte* panel) {
  const RunLayout layout(spec);
  const int64_t row_bytes = layout.row_bytes(spec.columns());
  const int64_t skip_bytes = layout.row_bytes(spec.column_begin());
  std::vector<std::byte> copy;
  int64_t slice_begin = 0;
  for (const PackedRows& slice : rows) {
    const int64_t slice_end = slice_begin + slice.row_end - slice.row_begin;
    const PanelLayout whole(slice.whole.rows);
    const int64_t whole_bytes = layout.row_bytes(slice.whole.columns());
    for (int64_t r = std::max(begin, slice_begin); r < std::min(end, slice_end);) {
      const Piece piece =
          PieceAt(whole, slice.row_begin + r - slice_begin, std::min(end, slice_end) - r);
      const uint64_t offset =
          static_cast<uint64_t>(piece.panel * whole_bytes + piece.panel_rows * skip_bytes);
      const size_t bytes = static_cast<size_t>(piece.panel_rows * row_bytes);
      if (piece.panel_rows == padded && piece.lane == 0 && piece.rows == end - begin) {
        TANDEM_RETURN_IF_ERROR(slice.read(offset, bytes, panel));
      } else {
        copy.resize(bytes);
        TANDEM_RETURN_IF_ERROR(slice.read(offset, bytes, copy.data()));
        ForEachUnit(layout, spec.columns(), [&](int64_t at, int64_t unit) {
          std::memcpy(panel + padded * at + (r - begin) * unit,
                      copy.data() + piece.panel_rows * at + piece.lane * unit,
                      static_cast<size_t>(piece.rows * unit));
        });
      }
      r += piece.rows;
    }
    slice_begin = slice_end;
  }
  return absl::OkStatus();
}

}  // namespace tandem::kernels::cpu
