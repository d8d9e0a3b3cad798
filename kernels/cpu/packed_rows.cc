#include "kernels/cpu/packed_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/status_macros.h"

namespace tandem::kernels::cpu {

std::vector<PackedRowRange> PackedRowRanges(std::span<const PackedRows> rows) {
  std::vector<PackedRowRange> ranges;
  for (size_t m = 0; m < rows.size(); ++m) {
    const PanelLayout whole(rows[m].whole.rows);
    const int64_t full = whole.full_panels * kPanelRows;
    const int64_t last = rows[m].row_end;
    const auto add = [&](int64_t begin, int64_t end, bool whole_panels) {
      if (begin < end) ranges.push_back({m, begin, end, whole_panels});
    };
    // A segment has panels of 64 rows and then panels of 16, as a matrix has. A range that ends
    // among the matrix's last rows may begin at any panel; other ranges end where a panel of 64
    // rows ends.
    const int64_t unit = rows[m].row_begin < full ? kPanelRows : kTailRows;
    const int64_t from = std::min(RoundUp(rows[m].row_begin, unit), last);
    int64_t to = last;
    if (last < full) {
      to = last / kPanelRows * kPanelRows;
    } else if (last < rows[m].whole.rows) {
      to = full + (last - full) / kTailRows * kTailRows;
    }
    to = std::max(to, from);
    add(rows[m].row_begin, from, false);
    add(from, to, true);
    add(to, last, false);
  }
  return ranges;
}

uint64_t PackedOffset(const SpanLayout& layout, const PackedRows& rows,
                      const PackedRowRange& range) {
  return static_cast<uint64_t>(range.begin * layout.row_bytes(rows.whole.columns()));
}

PackedRowsPlan PlanPackedRows(const LinearSpec& spec, std::span<const PackedRows> rows) {
  const SpanLayout layout(spec);
  const int64_t row_bytes = layout.row_bytes(spec.columns());
  const int64_t skip_bytes = layout.row_bytes(spec.column_begin());
  PackedRowsPlan plan;
  if (row_bytes == 0) return plan;
  for (const PackedRowRange& range : PackedRowRanges(rows)) {
    const PanelLayout panels(range.rows());
    if (!range.whole_panels) {
      plan.copied_bytes += static_cast<size_t>(RoundUp(panels.padded_rows() * row_bytes, 64));
      continue;
    }
    const int64_t whole_bytes = layout.row_bytes(rows[range.matrix].whole.columns());
    const uint64_t offset = PackedOffset(layout, rows[range.matrix], range);
    if (row_bytes == whole_bytes) {
      plan.in_place.push_back(
          {range.matrix, offset, static_cast<uint64_t>(panels.padded_rows() * row_bytes)});
      continue;
    }
    for (int64_t p = 0; p < panels.panels(); ++p) {
      const int64_t size = panels.panel_rows(p);
      plan.in_place.push_back(
          {range.matrix,
           offset + static_cast<uint64_t>(panels.first_row(p) * whole_bytes + size * skip_bytes),
           static_cast<uint64_t>(size * row_bytes)});
    }
  }
  return plan;
}

namespace {

// Rows lie side by side in units: a scale, a zero point, a step's elements. Calls fn(offset, unit):
// row l of a panel of P rows has that unit at P * offset + l * unit.
template <typename Fn>
void ForEachUnit(const SpanLayout& layout, int64_t columns, const Fn& fn) {
  const int64_t step = layout.kind == WeightKind::kF16 ? 2 : 4;
  int64_t offset = 0;
  for (int64_t leaf = 0; leaf < columns; leaf += layout.leaf) {
    const int64_t leaf_end = std::min(leaf + layout.leaf, columns);
    for (int64_t k = leaf; k < leaf_end; k += layout.span) {
      if (layout.quantized()) {
        const int64_t scale = static_cast<int64_t>(DTypeSize(layout.scale_dtype));
        fn(offset, scale);
        if (layout.zero_points) fn(offset + scale, 1);
        offset += layout.head_bytes();
      }
      const int64_t bytes = layout.element_bytes(std::min(layout.span, leaf_end - k));
      for (int64_t b = 0; b < bytes; b += step) fn(offset + b, step);
      offset += bytes;
    }
  }
}

// Neighbouring rows of one panel of a whole matrix.
struct PanelPart {
  int64_t panel = 0;  // its first row
  int64_t panel_rows = 0;
  int64_t lane = 0;  // of the first row
  int64_t rows = 0;
};

// The rows from `row` on, `most` of them or those of its panel.
PanelPart PanelPartAt(const PanelLayout& whole, int64_t row, int64_t most) {
  PanelPart part;
  part.panel_rows = row < whole.full_panels * kPanelRows ? kPanelRows : kTailRows;
  part.panel = row / part.panel_rows * part.panel_rows;
  part.lane = row - part.panel;
  part.rows = std::min(most, part.panel_rows - part.lane);
  return part;
}

}  // namespace

absl::Status CopyPackedPanel(const LinearSpec& spec, std::span<const PackedRows> rows,
                             int64_t begin, int64_t end, int64_t padded, std::byte* panel) {
  const SpanLayout layout(spec);
  const int64_t row_bytes = layout.row_bytes(spec.columns());
  const int64_t skip_bytes = layout.row_bytes(spec.column_begin());
  std::vector<std::byte> copy;
  int64_t matrix_begin = 0;
  for (const PackedRows& matrix : rows) {
    const int64_t matrix_end = matrix_begin + matrix.row_end - matrix.row_begin;
    const PanelLayout whole(matrix.whole.rows);
    const int64_t whole_bytes = layout.row_bytes(matrix.whole.columns());
    for (int64_t r = std::max(begin, matrix_begin); r < std::min(end, matrix_end);) {
      const PanelPart part =
          PanelPartAt(whole, matrix.row_begin + r - matrix_begin, std::min(end, matrix_end) - r);
      const uint64_t offset =
          static_cast<uint64_t>(part.panel * whole_bytes + part.panel_rows * skip_bytes);
      const size_t bytes = static_cast<size_t>(part.panel_rows * row_bytes);
      if (part.panel_rows == padded && part.lane == 0 && part.rows == end - begin) {
        TANDEM_RETURN_IF_ERROR(matrix.read(offset, bytes, panel));
      } else {
        copy.resize(bytes);
        TANDEM_RETURN_IF_ERROR(matrix.read(offset, bytes, copy.data()));
        ForEachUnit(layout, spec.columns(), [&](int64_t at, int64_t unit) {
          std::memcpy(panel + padded * at + (r - begin) * unit,
                      copy.data() + part.panel_rows * at + part.lane * unit,
                      static_cast<size_t>(part.rows * unit));
        });
      }
      r += part.rows;
    }
    matrix_begin = matrix_end;
  }
  return absl::OkStatus();
}

}  // namespace tandem::kernels::cpu
