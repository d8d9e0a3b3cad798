// One rank's rows of matrices that were packed whole. Whole panels can be read in place; rows that
// share a panel with rows of other ranks must be copied. No value is touched, so nothing is
// quantized or rounded again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/packed_rows.h"

namespace tandem::kernels::cpu {

// Rows [begin, end) of the matrix rows[matrix].whole.
struct PackedRowRange {
  size_t matrix = 0;
  int64_t begin = 0, end = 0;
  bool whole_panels = false;  // else rows of panels that it shares
  int64_t rows() const { return end - begin; }
};

// The rows in order, as ranges that are one segment each.
std::vector<PackedRowRange> PackedRowRanges(std::span<const PackedRows> rows);

// Where the range begins among the matrix's bytes: its first panel, all columns of it.
uint64_t PackedOffset(const SpanLayout& layout, const PackedRows& rows,
                      const PackedRowRange& range);

// See DeviceLayout::PlanPackedRows.
PackedRowsPlan PlanPackedRows(const LinearSpec& spec, std::span<const PackedRows> rows);

// Copies rows [begin, end) of the weight of `spec`, whose rows are those of `rows` one after
// another, into a panel of `padded` rows: some of the rows, and some of the leaves, of panels of
// the whole matrices.
absl::Status CopyPackedPanel(const LinearSpec& spec, std::span<const PackedRows> rows,
                             int64_t begin, int64_t end, int64_t padded, std::byte* panel);

}  // namespace tandem::kernels::cpu
