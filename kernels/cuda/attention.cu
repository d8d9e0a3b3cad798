// Attention over the paged cache. Both kernels work partition by partition (attention_partition.h)
// and combine partitions in order, so a token's result does not depend on which of them ran.
#include <cuda_device.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_partition.h"

namespace tandem::kernels::cuda {
namespace {

// Blocks for each multiprocessor, enough to hide latencies.
constexpr int kBlocksEach = 8;

template <int kRows>
__device__ PartitionScratch<kRows> MakeScratch(int head_dim, float* weights, float* partial,
                                               float* q) {
  return {q, weights, partial, (head_dim + 3) / 4 * 4};
}

// partials: [tokens, q_heads, partitions, 2 + head_dim], max and sum first.
template <KvDType kType, int kRows, int kDims>
__global__ void __launch_bounds__(kPartition)
    DecodeKernel(AttentionArgs a, int head_tiles, int partitions, float* partials) {
  TANDEM_DYNAMIC_SHARED(float, q);
  TANDEM_SHARED(float4, weights, kRows * kPartition / 4);
  TANDEM_SHARED(float, partial, 2 * kPartitionWarps * kRows);
  const int kv_head = static_cast<int>(blockIdx.x) / head_tiles;
  const int first = a.first_head[kv_head] + static_cast<int>(blockIdx.x) % head_tiles * kRows;
  const int left = a.first_head[kv_head + 1] - first;
  AwaitPrevious();
  StartNext();
  const int64_t token = blockIdx.z;
  const int context = a.positions[token] + 1;
  if (left <= 0 || static_cast<int>(blockIdx.y) * kPartition >= context) return;
  const auto scratch =
      MakeScratch<kRows>(a.head_dim, reinterpret_cast<float*>(&weights[0]), partial, q);
  LoadQueries(
      a, scratch, [&](int r) { return r < left ? token : int64_t{-1}; },
      [&](int r) { return first + r; });
  const int32_t* const table = a.block_tables + a.token_sequence[token] * a.max_blocks;
  for (int partition = static_cast<int>(blockIdx.y); partition * kPartition < context;
       partition += static_cast<int>(gridDim.y)) {
    const int begin = partition * kPartition;
    const int n = context - begin < kPartition ? context - begin : kPartition;
    int seen[kRows];
    for (int r = 0; r < kRows; ++r) seen[r] = n;
    RowSums<kRows, kDims> sums;
    AttendPartition<kType, kRows, kDims>(a, kv_head, table, begin, n, seen, scratch, sums);
    for (int r = 0; r < kRows; ++r) {
      if (r >= left) break;
      float* const to =
          partials + ((token * a.q_heads + first + r) * partitions + partition) * (2 + a.head_dim);
      if (threadIdx.x == 0) {
        to[0] = sums.max[r];
        to[1] = sums.sum[r];
      }
      for (int m = 0; m < kDims; ++m) {
        const int dim = static_cast<int>(threadIdx.x) + kPartition * m;
        if (dim < a.head_dim) to[2 + dim] = sums.values[r][m];
      }
    }
  }
}

__global__ void __launch_bounds__(kPartition)
    CombineKernel(AttentionArgs a, int partitions, const float* partials) {
  AwaitPrevious();
  StartNext();
  const int64_t token = blockIdx.y;
  const int64_t row = token * a.q_heads + blockIdx.x;
  const int context = a.positions[token] + 1;
  const int stride = 2 + a.head_dim;
  const float* const from = partials + row * partitions * stride;
  for (int dim = static_cast<int>(threadIdx.x); dim < a.head_dim; dim += kPartition) {
    if (context <= 0) {
      a.out[row * a.head_dim + dim] = 0;
      continue;
    }
    float max = from[0], sum = from[1], value = from[2 + dim];
    for (int partition = 1; partition * kPartition < context; ++partition) {
      const float* const next = from + partition * stride;
      const float2 weight = Combine(max, sum, next[0], next[1]);
      value = fmaf(next[2 + dim], weight.y, value * weight.x);
    }
    a.out[row * a.head_dim + dim] = value / sum;
  }
}

// A block has tile_tokens tokens from blockIdx.y * tile_tokens on, and some heads of a KV head.
template <KvDType kType, int kRows, int kDims>
__global__ void __launch_bounds__(kPartition)
    PrefillKernel(AttentionArgs a, int head_tiles, int tile_heads, int tile_tokens) {
  TANDEM_DYNAMIC_SHARED(float, q);
  TANDEM_SHARED(float4, weights, kRows * kPartition / 4);
  TANDEM_SHARED(float, partial, 2 * kPartitionWarps * kRows);
  const int kv_head = static_cast<int>(blockIdx.x) / head_tiles;
  const int first = a.first_head[kv_head] + static_cast<int>(blockIdx.x) % head_tiles * tile_heads;
  const int left = a.first_head[kv_head + 1] - first;
  const int heads = left < tile_heads ? left : tile_heads;
  AwaitPrevious();
  StartNext();
  if (heads <= 0) return;
  const auto scratch =
      MakeScratch<kRows>(a.head_dim, reinterpret_cast<float*>(&weights[0]), partial, q);
  const int64_t tile_begin = static_cast<int64_t>(blockIdx.y) * tile_tokens;
  const int64_t tile_end =
      tile_begin + tile_tokens < a.tokens ? tile_begin + tile_tokens : a.tokens;
  // Tokens of one sequence at a time.
  for (int64_t begin = tile_begin; begin < tile_end;) {
    const int sequence = a.token_sequence[begin];
    int64_t end = begin + 1;
    while (end < tile_end && a.token_sequence[end] == sequence) ++end;
    const auto token_of = [&](int r) {
      const int64_t token = begin + r / tile_heads;
      return token < end && r % tile_heads < heads ? token : int64_t{-1};
    };
    const auto head_of = [&](int r) { return first + r % tile_heads; };
    LoadQueries(a, scratch, token_of, head_of);
    int longest = 0;
    int contexts[kRows];
    for (int r = 0; r < kRows; ++r) {
      contexts[r] = token_of(r) < 0 ? 0 : a.positions[token_of(r)] + 1;
      longest = contexts[r] > longest ? contexts[r] : longest;
    }
    const int32_t* const table = a.block_tables + sequence * a.max_blocks;
    RowSums<kRows, kDims> total = {};
    for (int partition_begin = 0; partition_begin < longest; partition_begin += kPartition) {
      const int n = longest - partition_begin < kPartition ? longest - partition_begin : kPartition;
      int seen[kRows];
      for (int r = 0; r < kRows; ++r) {
        seen[r] = contexts[r] - partition_begin < n ? contexts[r] - partition_begin : n;
      }
      RowSums<kRows, kDims> next;
      AttendPartition<kType, kRows, kDims>(a, kv_head, table, partition_begin, n, seen, scratch,
                                           next);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (seen[r] <= 0) continue;
        if (partition_begin == 0) {
          total.max[r] = next.max[r];
          total.sum[r] = next.sum[r];
          for (int m = 0; m < kDims; ++m) total.values[r][m] = next.values[r][m];
          continue;
        }
        const float2 weight = Combine(total.max[r], total.sum[r], next.max[r], next.sum[r]);
        for (int m = 0; m < kDims; ++m) {
          total.values[r][m] = fmaf(next.values[r][m], weight.y, total.values[r][m] * weight.x);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t token = token_of(r);
      if (token < 0) continue;
      float* const out = a.out + (token * a.q_heads + head_of(r)) * a.head_dim;
      for (int m = 0; m < kDims; ++m) {
        const int dim = static_cast<int>(threadIdx.x) + kPartition * m;
        if (dim < a.head_dim) out[dim] = contexts[r] > 0 ? total.values[r][m] / total.sum[r] : 0;
      }
    }
    begin = end;
  }
}

size_t QueryBytes(int rows, int head_dim) {
  return sizeof(float) * rows * ((head_dim + 3) / 4 * 4);
}

template <KvDType kType, int kRows, int kDims>
void LaunchDecode(cudaStream_t stream, const AttentionArgs& a, int partitions, int multiprocessors,
                  float* partials) {
  const int head_tiles = (LargestGroup(a) + kRows - 1) / kRows;
  const int64_t columns = a.cache.kv_heads * head_tiles;
  // As many blocks as fill the GPU. Of `splits` blocks, each takes every splits-th partition.
  const int64_t wanted = int64_t{multiprocessors} * kBlocksEach;
  int64_t splits = (wanted + columns * a.tokens - 1) / (columns * a.tokens);
  splits = splits < partitions ? splits : partitions;
  Launch({.grid = dim3(static_cast<unsigned>(columns), static_cast<unsigned>(splits),
                       static_cast<unsigned>(a.tokens)),
          .block = dim3(kPartition),
          .shared_bytes = QueryBytes(kRows, a.head_dim),
          .stream = stream},
         &DecodeKernel<kType, kRows, kDims>, a, head_tiles, partitions, partials);
  Launch({.grid = dim3(static_cast<unsigned>(a.q_heads), static_cast<unsigned>(a.tokens)),
          .block = dim3(kPartition),
          .stream = stream},
         &CombineKernel, a, partitions, partials);
}

template <KvDType kType, int kRows, int kDims>
void LaunchPrefill(cudaStream_t stream, const AttentionArgs& a) {
  const int group = LargestGroup(a);
  const int tile_heads = group < kRows ? group : kRows;
  const int head_tiles = (group + tile_heads - 1) / tile_heads;
  const int tile_tokens = kRows / tile_heads;
  Launch({.grid = dim3(static_cast<unsigned>(a.cache.kv_heads * head_tiles),
                       static_cast<unsigned>((a.tokens + tile_tokens - 1) / tile_tokens)),
          .block = dim3(kPartition),
          .shared_bytes = QueryBytes(kRows, a.head_dim),
          .stream = stream},
         &PrefillKernel<kType, kRows, kDims>, a, head_tiles, tile_heads, tile_tokens);
}

// Calls f with the cache's type as its template argument.
template <typename F>
void WithType(KvDType dtype, const F& f) {
  switch (dtype) {
    case KvDType::kF32:
      return f.template operator()<KvDType::kF32>();
    case KvDType::kF16:
      return f.template operator()<KvDType::kF16>();
    case KvDType::kBF16:
      return f.template operator()<KvDType::kBF16>();
    case KvDType::kI8:
      return f.template operator()<KvDType::kI8>();
  }
}

}  // namespace

int64_t PartialBytes(int64_t tokens, int q_heads, int head_dim, int partitions) {
  return tokens * q_heads * partitions * (2 + head_dim) * static_cast<int64_t>(sizeof(float));
}

void DecodeAttention(cudaStream_t stream, const AttentionArgs& args, int partitions,
                     int multiprocessors, float* partials) {
  if (args.tokens == 0 || args.q_heads == 0) return;
  WithType(args.cache.dtype, [&]<KvDType kType>() {
    if (args.head_dim > kPartition) {
      LaunchDecode<kType, 4, 4>(stream, args, partitions, multiprocessors, partials);
    } else if (LargestGroup(args) > 4) {
      LaunchDecode<kType, 8, 1>(stream, args, partitions, multiprocessors, partials);
    } else {
      LaunchDecode<kType, 4, 1>(stream, args, partitions, multiprocessors, partials);
    }
  });
}

void PrefillAttention(cudaStream_t stream, const AttentionArgs& args) {
  if (args.tokens == 0 || args.q_heads == 0) return;
  WithType(args.cache.dtype, [&]<KvDType kType>() {
    if (args.head_dim > kPartition) {
      LaunchPrefill<kType, 4, 4>(stream, args);
    } else {
      LaunchPrefill<kType, 16, 1>(stream, args);
    }
  });
}

}  // namespace tandem::kernels::cuda
