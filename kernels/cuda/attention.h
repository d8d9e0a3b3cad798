// Rotary embedding with the write to the paged KV cache, and attention over it. The
// cache has the layout of kernels/kv_cache_view.h: in scores a thread is a position,
// in values a dimension, so that neighbouring threads read neighbouring words and
// neither product needs a sum over threads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/kv_cache_view.h"

namespace tandem::kernels::cuda {

// Contexts are cut every so many positions; cuts are combined in order. So the work on a
// context can be shared by blocks, and no bit depends on how.
inline constexpr int kCut = 128;
inline constexpr int kMaxKvHeads = 256;

struct RopeArgs {
  int64_t tokens = 0;
  int q_heads = 0;
  float* qkv = nullptr;  // [tokens, (q_heads + 2 kv_heads) * head_dim]; q is updated
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float norm_epsilon = 0;
  const float* cos = nullptr;
  const float* sin = nullptr;
  const int32_t* slot_mapping = nullptr;  // [tokens]; below 0: not written
  KvCacheView cache;
};

struct AttentionArgs {
  int64_t tokens = 0;
  int q_heads = 0;
  int head_dim = 0;
  const float* qkv = nullptr;
  int64_t qkv_stride = 0;
  const int32_t* positions = nullptr;  // [tokens]; below 0: the output is zero
  const int32_t* token_sequence = nullptr;
  const int32_t* block_tables = nullptr;
  int64_t max_blocks = 0;
  float scale = 0;
  KvCacheView cache;
  float* out = nullptr;  // [tokens, q_heads * head_dim]
  // Query heads [first_head[h], first_head[h + 1]) read KV head h.
  uint16_t first_head[kMaxKvHeads + 1] = {};
};

void RopeAndCache(cudaStream_t stream, const RopeArgs& args);

// Tokens of which none shares a context with another: cuts are shared by blocks, `cuts` at
// most for a token, and combined by a second kernel. partials is scratch of
// PartialBytes().
void DecodeAttention(cudaStream_t stream, const AttentionArgs& args, int cuts, int multiprocessors,
                     float* partials);
int64_t PartialBytes(int64_t tokens, int q_heads, int head_dim, int cuts);

// Any tokens: a block takes neighbouring ones, which mostly share their context.
void PrefillAttention(cudaStream_t stream, const AttentionArgs& args);

}  // namespace tandem::kernels::cuda
