#include "kernels/cpu/packed_view.h"

#include <algorithm>

namespace tandem::kernels::cpu {

std::vector<RowRun> RunsOf(std::span<const PackedRows> rows) {
  std::vector<RowRun> runs;
  for (size_t m = 0; m < rows.size(); ++m) {
    const PanelLayout whole(rows[m].whole.rows);
    const int64_t full = whole.full_panels * kPanelRows;
    const int64_t last = rows[m].row_end;
    const auto add = [&](int64_t begin, int64_t end, bool whole_panels) {
      if (begin < end) runs.push_back({m, begin, end, whole_panels});
    };
    // A segment has panels of 64 rows and then of 16, as a matrix has: one that ends among the
    // matrix's last rows may begin at any panel, others end where one of 64 rows does.
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
  return runs;
}

uint64_t RunOffset(const RunLayout& layout, const PackedRows& rows, const RowRun& run) {
  return static_cast<uint64_t>(run.begin * layout.row_bytes(rows.whole.columns()));
}

MappedView ViewRows(const LinearSpec& spec, std::span<const PackedRows> rows) {
  const RunLayout layout(spec);
  const int64_t row_bytes = layout.row_bytes(spec.columns());
  const int64_t skip_bytes = layout.row_bytes(spec.column_begin());
  MappedView view;
  if (row_bytes == 0) return view;
  for (const RowRun& run : RunsOf(rows)) {
    const PanelLayout panels(run.rows());
    if (!run.whole_panels) {
      view.copied_bytes += static_cast<size_t>(RoundUp(panels.padded_rows() * row_bytes, 64));
      continue;
    }
    const int64_t whole_bytes = layout.row_bytes(rows[run.matrix].whole.columns());
    const uint64_t offset = RunOffset(layout, rows[run.matrix], run);
    if (row_bytes == whole_bytes) {
      view.pieces.push_back(
          {run.matrix, offset, static_cast<uint64_t>(panels.padded_rows() * row_bytes)});
      continue;
    }
    for (int64_t p = 0; p < panels.panels(); ++p) {
      const int64_t size = panels.panel_rows(p);
      view.pieces.push_back(
          {run.matrix,
           offset + static_cast<uint64_t>(panels.first_row(p) * whole_bytes + size * skip_bytes),
           static_cast<uint64_t>(size * row_bytes)});
    }
  }
  return view;
}

}  // namespace tandem::kernels::cpu
