// Attention on matrix units. A block has some rows ((token, query head) pairs that read one KV
// head) and goes over their context tile by tile (attention_tile.h): scores = Q K^T, a running
// softmax, out += P V. A warp has 16 rows, and all positions of a tile or 16 of them.
#include <cuda_device.h>
#include <cuda_matrix.h>

#include <algorithm>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_tile.h"
#include "kernels/cuda/device_math.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kWarpRows = 16;
// Fewer positions are not worth a block of their own.
constexpr int kMinPositions = 128;
// Partial results of a row.
constexpr int kMaxSlots = 128;
constexpr int kCombineThreads = 128;

constexpr int TilePositions(int dim) { return dim <= 64 ? 64 : dim == 128 ? 32 : 16; }

struct RowTiling {
  int head_tiles;  // of a KV head's query heads
  int tile_heads;
  int tile_tokens;
  int splits;  // parts of a context, one for each block
};

// How a block's warps divide the work: by rows, or by a tile's positions.
template <KvDType kCacheType, int kPaddedDim, int kRowWarpCount, int kColumnWarpCount>
struct Shape {
  static constexpr int kDim = kPaddedDim;  // at least head_dim
  static constexpr int kRowWarps = kRowWarpCount, kColumnWarps = kColumnWarpCount;
  static constexpr int kThreads = 32 * kRowWarps * kColumnWarps;
  static constexpr int kRows = kWarpRows * kRowWarps;
  // Blocks for each multiprocessor; contexts are split if there are too few tokens for them. A
  // block of few rows is bound by memory: then more blocks than run at once, since contexts differ
  // in length.
  static constexpr int kBlocksEach = kRowWarps > 1 ? 2 : 16;
  static constexpr int kPositions = TilePositions(kDim);
  // On one multiprocessor: 12 warps, as many as registers allow without spilling.
  static constexpr int kBlocksAtOnce = kDim > 128 ? 1 : 384 / kThreads;
  static constexpr int kWarpPositions = kPositions / kColumnWarps;
  using Tile = KvTile<kCacheType, kDim, kPositions, kThreads>;
  static constexpr DType kElement = Tile::kElement;
  // Weights are at most 1. This power of two moves them up in FP16's range, so that small weights
  // keep their bits; sums and values grow by the same factor.
  static constexpr float kWeightShift = kElement == DType::kF16 ? 15.0f : 0.0f;
};

template <DType kType>
__device__ inline unsigned RoundPair(float low, float high) {
  if constexpr (kType == DType::kBF16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
  } else {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
  }
}

// The largest value of the four lanes that have a row.
__device__ inline float RowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// A warp's 16 rows, as fragments (cuda_matrix.h): a lane has two of them, r = 0 and 1, eight
// rows apart. Scores are in units of log 2.
template <typename S>
struct WarpRows {
  int64_t token[2];  // -1: no such row
  int head[2];
  int seen[2];                // positions that the row attends to; all, where there is no such row
  int most_seen, least_seen;  // of the warp's rows
  unsigned q[S::kDim / 16][4];
  float out[S::kDim / 8][4];
  float max[2];
  float sum[2];       // this lane's columns
  float value_scale;  // of INT8: out is in units of it, the largest scale so far
};

// Row r of the block is token `begin` + r / tile_heads, if below `end`.
template <typename S>
__device__ void StartRows(const AttentionArgs& a, const RowTiling& tiling, int first_head,
                          int heads, int64_t begin, int64_t end, int length, int row_warp,
                          WarpRows<S>& rows) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float most = 0, least = static_cast<float>(length);  // exact: contexts are below 2^24
  for (int r = 0; r < 2; ++r) {
    const int row = row_warp * kWarpRows + lane / 4 + 8 * r;
    const int head = row % tiling.tile_heads;
    const int64_t token = begin + row / tiling.tile_heads;
    const bool real = token < end && head < heads;
    rows.token[r] = real ? token : -1;
    rows.head[r] = first_head + head;
    rows.seen[r] = real ? a.positions[token] + 1 : length;
    if (real) most = fmaxf(most, static_cast<float>(rows.seen[r]));
    least = fminf(least, static_cast<float>(rows.seen[r]));
    rows.max[r] = -INFINITY;
    rows.sum[r] = 0;
  }
  rows.most_seen = static_cast<int>(MaxLanes(most));
  rows.least_seen = -static_cast<int>(MaxLanes(-least));
  rows.value_scale = 0;

  const float scale = a.scale * 1.44269504f;  // exp(x) = 2^(x / log 2)
#pragma unroll
  for (int step = 0; step < S::kDim / 16; ++step) {
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const int r = w % 2, dim = 16 * step + w / 2 * 8 + lane % 4 * 2;
      float2 q = make_float2(0, 0);
      if (rows.token[r] >= 0 && dim < a.head_dim) {
        q = *reinterpret_cast<const float2*>(a.qkv + rows.token[r] * a.qkv_stride +
                                             rows.head[r] * a.head_dim + dim);
      }
      rows.q[step][w] = RoundPair<S::kElement>(q.x * scale, q.y * scale);
    }
  }
#pragma unroll
  for (int n = 0; n < S::kDim / 8; ++n) {
    for (int i = 0; i < 4; ++i) rows.out[n][i] = 0;
  }
}

// Takes in the tile at `begin`, of which the warp's positions are those from `offset` on.
template <typename S>
__device__ void AttendTile(const typename S::Tile& tile, int begin, int offset, WarpRows<S>& rows) {
  using Tile = typename S::Tile;
  constexpr int kColumns = S::kWarpPositions / 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, i = lane % 4;

  float scores[kColumns][4] = {};
  const unsigned* const keys = tile.keys() + offset + i * Tile::kKeyStride + g;
#pragma unroll
  for (int step = 0; step < S::kDim / 16; ++step) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const unsigned* const at = keys + 8 * step * Tile::kKeyStride + 8 * n;
      const unsigned b[2] = {at[0], at[4 * Tile::kKeyStride]};
      MultiplyTiles<S::kElement>(rows.q[step], b, scores[n]);
    }
  }

  float inverse_scale = 0;  // of values, relative to the unit of `out`
  float rescale = 1;
  if constexpr (Tile::kScaled) {
    float most = rows.value_scale;
    for (int p = lane; p < S::kWarpPositions; p += 32) {
      most = fmaxf(most, tile.value_scales()[offset + p]);
    }
    most = MaxLanes(most);
    inverse_scale = most > 0 ? 1.0f / most : 0.0f;
    rescale = rows.value_scale * inverse_scale;
    rows.value_scale = most;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      const float2 scale =
          *reinterpret_cast<const float2*>(tile.key_scales() + offset + 8 * n + 2 * i);
      for (int e = 0; e < 4; ++e) scores[n][e] *= e % 2 == 0 ? scale.x : scale.y;
    }
  }
  if (begin + offset + S::kWarpPositions > rows.least_seen) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      for (int e = 0; e < 4; ++e) {
        const int position = begin + offset + 8 * n + 2 * i + e % 2;
        if (position >= rows.seen[e / 2]) scores[n][e] = -INFINITY;
      }
    }
  }

  float zero[2], old_weight[2];  // the score whose weight is 1; the weight of what was before
  for (int r = 0; r < 2; ++r) {
    float max = rows.max[r];
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
      max = fmaxf(max, fmaxf(scores[n][2 * r], scores[n][2 * r + 1]));
    }
    max = RowMax(max);
    // A row that has seen nothing yet stays at zeros.
    const float finite = max == -INFINITY ? 0.0f : max;
    old_weight[r] = exp2f(rows.max[r] - finite);
    zero[r] = finite - S::kWeightShift;
    rows.max[r] = max;
    rows.sum[r] *= old_weight[r];
  }
#pragma unroll
  for (int n = 0; n < S::kDim / 8; ++n) {
    for (int e = 0; e < 4; ++e) rows.out[n][e] *= old_weight[e / 2] * rescale;
  }

  // 16 positions of a product at a time: two columns of scores become one fragment.
#pragma unroll
  for (int step = 0; step < kColumns / 2; ++step) {
    unsigned weights[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int n = 2 * step + half;
      float2 scale = make_float2(1, 1);
      if constexpr (Tile::kScaled) {
        scale = *reinterpret_cast<const float2*>(tile.value_scales() + offset + 8 * n + 2 * i);
        scale = make_float2(scale.x * inverse_scale, scale.y * inverse_scale);
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = exp2f(scores[n][2 * r] - zero[r]);
        const float y = exp2f(scores[n][2 * r + 1] - zero[r]);
        rows.sum[r] += x + y;
        weights[2 * half + r] = RoundPair<S::kElement>(x * scale.x, y * scale.y);
      }
    }
    const unsigned* const values =
        tile.values() + (offset / 2 + 8 * step + i) * Tile::kValueStride + g;
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
      const unsigned b[2] = {values[8 * n], values[8 * n + 4 * Tile::kValueStride]};
      MultiplyTiles<S::kElement>(weights, b, rows.out[n]);
    }
  }
}

// Stores the rows' results; or, as slot `slot` of `slots`, the partial results that CombineKernel
// needs: [tokens, q_heads, slots, 2 + head_dim], max and sum first, no values where the sum is 0.
template <typename S>
__device__ void StoreRows(const AttentionArgs& a, const WarpRows<S>& rows, int slot, int slots,
                          float* partials) {
  const int i = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = rows.sum[r] + __shfl_xor_sync(kAllLanes, rows.sum[r], 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (rows.token[r] < 0) continue;
    const int64_t row = rows.token[r] * a.q_heads + rows.head[r];
    float factor = S::Tile::kScaled ? rows.value_scale : 1.0f;
    float* to = a.out + row * a.head_dim;
    if (slots > 1) {
      to = partials + (row * slots + slot) * (2 + a.head_dim);
      if (i == 0) *reinterpret_cast<float2*>(to) = make_float2(rows.max[r], sum);
      if (!(sum != 0)) continue;
      to += 2;
    } else {
      factor = rows.seen[r] > 0 ? factor / sum : 0.0f;
    }
#pragma unroll
    for (int n = 0; n < S::kDim / 8; ++n) {
      const int dim = 8 * n + 2 * i;
      if (dim >= a.head_dim) break;
      *reinterpret_cast<float2*>(to + dim) =
          make_float2(rows.out[n][2 * r] * factor, rows.out[n][2 * r + 1] * factor);
    }
  }
}

template <typename S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocksAtOnce)
    MatrixKernel(AttentionArgs a, RowTiling tiling, float* partials) {
  using Tile = typename S::Tile;
  TANDEM_SHARED(uint4, memory, Tile::kBytes / 16);
  const int kv_head = static_cast<int>(blockIdx.x) / tiling.head_tiles;
  const int first_head =
      a.first_head[kv_head] + static_cast<int>(blockIdx.x) % tiling.head_tiles * tiling.tile_heads;
  const int left = a.first_head[kv_head + 1] - first_head;
  const int heads = left < tiling.tile_heads ? left : tiling.tile_heads;
  AwaitPrevious();
  StartNext();
  if (heads <= 0) return;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int row_warp = warp / S::kColumnWarps, column_warp = warp % S::kColumnWarps;
  const int split = static_cast<int>(blockIdx.z);
  // The last tokens first: their contexts are the longest.
  const int64_t tile_begin = static_cast<int64_t>(gridDim.y - 1 - blockIdx.y) * tiling.tile_tokens;
  const int64_t tile_end =
      tile_begin + tiling.tile_tokens < a.tokens ? tile_begin + tiling.tile_tokens : a.tokens;
  Tile tile(memory);
  // Tokens of one sequence at a time.
  for (int64_t begin = tile_begin; begin < tile_end;) {
    const int sequence = a.token_sequence[begin];
    int length = a.positions[begin] + 1;
    int64_t end = begin + 1;
    for (; end < tile_end && a.token_sequence[end] == sequence; ++end) {
      length = a.positions[end] + 1 > length ? a.positions[end] + 1 : length;
    }
    WarpRows<S> rows;
    StartRows<S>(a, tiling, first_head, heads, begin, end, length, row_warp, rows);
    // This block's part of the context.
    const int tiles = (length + S::kPositions - 1) / S::kPositions;
    constexpr int kMinTiles = kMinPositions / S::kPositions;
    int tiles_each = (tiles + tiling.splits - 1) / tiling.splits;
    tiles_each = tiles_each > kMinTiles ? tiles_each : kMinTiles;
    const int first = split * tiles_each * S::kPositions;
    const int last =
        first + tiles_each * S::kPositions < length ? first + tiles_each * S::kPositions : length;
    const int32_t* const table = a.block_tables + sequence * a.max_blocks;
    if (first < last) tile.Start(a.cache, kv_head, table, first, length);
    for (int at = first; at < last; at += S::kPositions) {
      tile.Finish(length - at);
      if (at + S::kPositions < last) {
        tile.Start(a.cache, kv_head, table, at + S::kPositions, length);
      }
      const int offset = column_warp * S::kWarpPositions;
      if (at + offset < rows.most_seen) AttendTile<S>(tile, at, offset, rows);
    }
    StoreRows<S>(a, rows, split * S::kColumnWarps + column_warp, tiling.splits * S::kColumnWarps,
                 partials);
    begin = end;
  }
}

// One row's result, from the partial results of all parts of its context.
__global__ void __launch_bounds__(kCombineThreads)
    CombineKernel(AttentionArgs a, int slots, const float* partials) {
  TANDEM_SHARED(float, weights, kMaxSlots);
  TANDEM_SHARED(float, of_warps, 2 * kCombineThreads / 32);
  static_assert(kMaxSlots <= kCombineThreads);
  AwaitPrevious();
  StartNext();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * a.q_heads + blockIdx.x;
  const int stride = 2 + a.head_dim;
  const float* const from = partials + row * slots * stride;
  float max = -INFINITY, sum = 0;
  if (thread < slots) {
    max = from[thread * stride];
    sum = from[thread * stride + 1];
  }
  const float warp_max = MaxLanes(max);
  if (thread % 32 == 0) of_warps[warp] = warp_max;
  __syncthreads();
  float joint = of_warps[0];
  for (int w = 1; w < kCombineThreads / 32; ++w) joint = fmaxf(joint, of_warps[w]);
  const float weight = sum != 0 ? exp2f(max - joint) : 0.0f;
  const float warp_sum = SumLanes(weight * sum);
  if (thread < slots) weights[thread] = weight;
  if (thread % 32 == 0) of_warps[kCombineThreads / 32 + warp] = warp_sum;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < kCombineThreads / 32; ++w) total += of_warps[kCombineThreads / 32 + w];
  for (int dim = thread; dim < a.head_dim; dim += kCombineThreads) {
    float value = 0;
#pragma unroll 8
    for (int s = 0; s < slots; ++s) {
      // Parts without values have zero weight, too.
      if (weights[s] != 0) value = fmaf(weights[s], from[s * stride + 2 + dim], value);
    }
    a.out[row * a.head_dim + dim] = a.positions[blockIdx.y] >= 0 ? value / total : 0.0f;
  }
}

template <typename S>
void LaunchRows(cudaStream_t stream, const AttentionArgs& a, const RowTiling& tiling,
                float* partials) {
  const int64_t token_tiles = (a.tokens + tiling.tile_tokens - 1) / tiling.tile_tokens;
  Launch({.grid = dim3(static_cast<unsigned>(a.cache.kv_heads * tiling.head_tiles),
                       static_cast<unsigned>(token_tiles), static_cast<unsigned>(tiling.splits)),
          .block = dim3(S::kThreads),
          .stream = stream},
         &MatrixKernel<S>, a, tiling, partials);
  const int slots = tiling.splits * S::kColumnWarps;
  if (slots == 1) return;
  Launch({.grid = dim3(static_cast<unsigned>(a.q_heads), static_cast<unsigned>(a.tokens)),
          .block = dim3(kCombineThreads),
          .stream = stream},
         &CombineKernel, a, slots, partials);
}

AttentionArgs TokensOf(const AttentionArgs& a, int64_t begin, int64_t end) {
  AttentionArgs part = a;
  part.tokens = end - begin;
  part.qkv += begin * a.qkv_stride;
  part.positions += begin;
  part.token_sequence += begin;
  part.out += begin * a.q_heads * a.head_dim;
  return part;
}

// Bytes of a token's partial results of one split of its context.
template <typename S>
int64_t SplitBytes(const AttentionArgs& a) {
  return int64_t{a.q_heads} * S::kColumnWarps * (2 + a.head_dim) *
         static_cast<int64_t>(sizeof(float));
}

// partial_bytes: at least those of a split of all tokens, unless it is one warp's.
template <typename S>
void LaunchTokens(cudaStream_t stream, const AttentionArgs& a, bool single, int multiprocessors,
                  float* partials, int64_t partial_bytes) {
  RowTiling tiling;
  const int group = LargestGroup(a);
  tiling.tile_heads = group < S::kRows ? group : S::kRows;
  tiling.head_tiles = (group + tiling.tile_heads - 1) / tiling.tile_heads;
  tiling.tile_tokens = single ? 1 : S::kRows / tiling.tile_heads;
  const int64_t blocks = a.cache.kv_heads * tiling.head_tiles *
                         ((a.tokens + tiling.tile_tokens - 1) / tiling.tile_tokens);
  const int64_t most =
      std::min<int64_t>(kMaxSlots / S::kColumnWarps, partial_bytes / (a.tokens * SplitBytes<S>(a)));
  const int64_t wanted = int64_t{multiprocessors} * S::kBlocksEach / blocks;
  tiling.splits = static_cast<int>(std::max<int64_t>(1, std::min(wanted, most)));
  LaunchRows<S>(stream, a, tiling, partials);
}

template <KvDType kType, int kDim>
void LaunchDim(cudaStream_t stream, const AttentionArgs& a, bool single, int multiprocessors,
               float* partials, int64_t partial_bytes) {
  using Many = Shape<kType, kDim, 4, 1>;
  using Few = Shape<kType, kDim, 1, TilePositions(kDim) / 16>;
  const int64_t at_once = partial_bytes / SplitBytes<Few>(a);
  if (at_once > 0 && (single || a.tokens * LargestGroup(a) <= Few::kRows)) {
    for (int64_t t = 0; t < a.tokens; t += at_once) {
      LaunchTokens<Few>(stream, TokensOf(a, t, std::min(t + at_once, a.tokens)), single,
                        multiprocessors, partials, partial_bytes);
    }
  } else {
    LaunchTokens<Many>(stream, a, single, multiprocessors, partials, partial_bytes);
  }
}

template <KvDType kType>
void LaunchType(cudaStream_t stream, const AttentionArgs& a, bool single, int multiprocessors,
                float* partials, int64_t partial_bytes) {
  const auto launch = [&]<int kDim>() {
    LaunchDim<kType, kDim>(stream, a, single, multiprocessors, partials, partial_bytes);
  };
  if (a.head_dim <= 32) return launch.template operator()<32>();
  if (a.head_dim <= 64) return launch.template operator()<64>();
  if (a.head_dim <= 128) return launch.template operator()<128>();
  return launch.template operator()<256>();
}

}  // namespace

bool MatrixAttentionTakes(const KvCacheView& cache, bool has_bf16) {
  return cache.head_dim <= 256 && cache.dtype != KvDType::kF32 &&
         (cache.dtype != KvDType::kBF16 || has_bf16);
}

void MatrixAttention(cudaStream_t stream, const AttentionArgs& args, bool single,
                     int multiprocessors, float* partials, size_t partial_bytes) {
  if (args.tokens == 0 || args.q_heads == 0) return;
  const auto bytes = static_cast<int64_t>(partial_bytes);
  switch (args.cache.dtype) {
    case KvDType::kF32:
      return;  // MatrixAttentionTakes refuses it
    case KvDType::kF16:
      return LaunchType<KvDType::kF16>(stream, args, single, multiprocessors, partials, bytes);
    case KvDType::kBF16:
      return LaunchType<KvDType::kBF16>(stream, args, single, multiprocessors, partials, bytes);
    case KvDType::kI8:
      return LaunchType<KvDType::kI8>(stream, args, single, multiprocessors, partials, bytes);
  }
}

}  // namespace tandem::kernels::cuda
