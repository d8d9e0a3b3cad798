// One rank's rows of matrices that were packed whole, seen where they lie: whole panels are read
// there, rows that share a panel with others' are to be copied.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/linear_layout.h"

namespace tandem::kernels::cpu {

// Rows [begin, end) of the matrix rows[matrix].whole.
struct RowRun {
  size_t matrix = 0;
  int64_t begin = 0, end = 0;
  bool whole_panels = false;  // else rows of panels that it shares
  int64_t rows() const { return end - begin; }
};

// The rows, in order, as runs that are one segment each.
std::vector<RowRun> RunsOf(std::span<const PackedRows> rows);

// Where the run begins among the matrix's bytes: its first panel, all columns of it.
uint64_t RunOffset(const RunLayout& layout, const PackedRows& rows, const RowRun& run);

// The weight of `spec` over whole panels of the rows; of runs without, the bytes of copies.
MappedView ViewRows(const LinearSpec& spec, std::span<const PackedRows> rows);

}  // namespace tandem::kernels::cpu
