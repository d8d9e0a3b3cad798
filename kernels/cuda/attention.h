// Rotary embedding with the write to the paged KV cache, and attention over it. The
// cache has the layout of kernels/kv_cache_view.h: in scores a thread is a position,
// in values a dimension, so that neighbouring threads read neighbouring words and
// neither product needs a sum over threads.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/kv_cache_view.h"

namespace tandem::kernels::cuda {

// Contexts are divided into partitions of kPartition positions; partitions are combined in order.
// So blocks of threads can divide the work on a context, and no bit depends on how.
inline constexpr int kPartition = 128;
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

// Query heads of the KV head that has most of them.
inline int LargestGroup(const AttentionArgs& args) {
  int most = 0;
  for (int64_t h = 0; h < args.cache.kv_heads; ++h) {
    const int heads = args.first_head[h + 1] - args.first_head[h];
    most = heads > most ? heads : most;
  }
  return most;
}

void RopeAndCache(cudaStream_t stream, const RopeArgs& args);

// The two functions that follow add in fp32, partition by partition in one order, so that a token's
// result depends neither on which of them runs nor on the tokens beside it.
//
// Tokens of different sequences. Blocks divide a token's partitions, of which there are
// `partitions` at most, and a second kernel combines them. partials is scratch of PartialBytes().
void DecodeAttention(cudaStream_t stream, const AttentionArgs& args, int partitions,
                     int multiprocessors, float* partials);
int64_t PartialBytes(int64_t tokens, int q_heads, int head_dim, int partitions);

// Any tokens: a block takes neighbouring ones, which mostly have the same context.
void PrefillAttention(cudaStream_t stream, const AttentionArgs& args);

// Attention on matrix units: any tokens; `single` says that all are of different sequences.
// Queries and weights are rounded to BF16 for a BF16 cache and to FP16 for others, whose codes
// are exact in it; scales and sums are fp32. Blocks divide long contexts where the tokens
// alone do not fill the GPU, so the last bits of a result may depend on the tokens beside it and on
// the GPU. partials is scratch of partial_bytes; with less of it, fewer blocks divide a context.
void MatrixAttention(cudaStream_t stream, const AttentionArgs& args, bool single,
                     int multiprocessors, float* partials, size_t partial_bytes);
// Whether MatrixAttention takes such a cache on a GPU with or without BF16.
bool MatrixAttentionTakes(const KvCacheView& cache, bool has_bf16);

}  // namespace tandem::kernels::cuda
