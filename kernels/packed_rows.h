// Rows of a matrix that was packed before: a rank takes its shard out of the packed bytes,
// by copying them or by reading them in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "kernels/linear_spec.h"

namespace tandem::kernels {

// Copies bytes [offset, offset + bytes) of a weight's packed() bytes to dst. Many threads may call
// it at once.
using PackedReader = std::function<absl::Status(uint64_t offset, size_t bytes, std::byte* dst)>;

// Rows [row_begin, row_end) of a whole matrix (all rows, all leaves) whose packed() bytes were
// kept.
struct PackedRows {
  LinearSpec whole;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  PackedReader read;
  // All packed bytes in memory that outlives the weight made from them, or null.
  const std::byte* mapped = nullptr;
};

// What WeightStore::MapPackedRows reads in place and what it copies.
struct PackedRowsPlan {
  // Packed bytes [offset, offset + bytes) of one matrix.
  struct Range {
    size_t matrix = 0;  // index into the PackedRows
    uint64_t offset = 0, bytes = 0;
  };
  std::vector<Range> in_place;
  size_t copied_bytes = 0;
};

}  // namespace tandem::kernels
