// Places of what attention keeps for one tile in its thread's scratch.
#pragma once

#include <cstddef>

#include "kernels/cpu/attention.h"

namespace tandem::kernels::cpu {

// Offsets in floats.
struct ScratchLayout {
  explicit ScratchLayout(const KvCacheView& cache) {
    const size_t stride = static_cast<size_t>(cache.v_stride());
    size_t offset = 0;
    const auto place = [&](size_t bytes) {
      const size_t at = offset;
      offset += (bytes + 63) / 64 * 16;
      return at;
    };
    queries = place(kMaxRows * kQueryStride);
    scores = place(kMaxRows * kScoreStride);
    values = place(kMaxRows * stride * sizeof(float));
    totals = place(kMaxRows * stride * sizeof(float));
    query_terms = place(kMaxRows * sizeof(CodeTerms));
    weight_terms = place(kMaxRows * sizeof(CodeTerms));
    floats = offset;
  }
  size_t queries, scores, values, totals, query_terms, weight_terms, floats;
};

struct RowSum {
  float max = 0;
  float sum = 0;
};

}  // namespace tandem::kernels::cpu
