// One forward step over tokens of several sequences, as flat arrays. Views
// only: the step plan owns the memory.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/sampling.h"

namespace tandem::model {

// Tokens per KV block, fixed: attention adds in this order, and a vector lane
// is one position of a block.
inline constexpr int32_t kBlockSize = 16;

struct StepInput {
  std::span<const int32_t> token_ids;     // [tokens]
  std::span<const int32_t> positions;     // [tokens], from 0 in each sequence
  std::span<const int32_t> slot_mapping;  // [tokens], block * kBlockSize + offset
  std::span<const int32_t> cu_seqlens_q;  // [sequences + 1], offsets into the tokens
  std::span<const int32_t> context_lens;  // [sequences], tokens in the cache after the step
  std::span<const int32_t> block_tables;  // [sequences, max_blocks], padded with -1
  int32_t max_blocks = 0;
  std::span<const int32_t> logits_indices;           // [rows], which tokens need logits
  std::span<const kernels::SampleRequest> sampling;  // [rows], or none: all rows come whole

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_sequences() const { return static_cast<int32_t>(context_lens.size()); }
  int32_t num_rows() const { return static_cast<int32_t>(logits_indices.size()); }
};

}  // namespace tandem::model
