// A block has 64 rows and up to 64 tokens: two sets of four warps with 16 rows each. The two sets
// take turns with the columns and add their sums at the end. Columns go in stages; all warps use a
// stage's activations, and the weight's chunks for the next stage are loaded meanwhile.
//
// The order of columns inside a product is free as long as weight and activations agree. The
// four lanes of a row take four successive chunks, a strip. Elements are multiplied as they
// come: a lane's columns are those of its chunk. Codes are exchanged first, so that each lane has
// its word of every chunk: a product is then inside one chunk, and so has one scale.
#include <cuda_device.h>
#include <cuda_matrix.h>

#include <algorithm>

#include "kernels/cuda/linear_chunk.h"
#include "kernels/cuda/linear_tiles.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kRowWarps = 4;
constexpr int kColumnWarps = 2;
constexpr int kWarps = kRowWarps * kColumnWarps;
constexpr int kThreads = 32 * kWarps;
constexpr int kRows = 16 * kRowWarps;
constexpr int kMostSplits = 8;

// Blocks that a multiprocessor's registers must allow, for `tiles` of 8 tokens.
constexpr int BlocksOf(int tiles) { return tiles <= 2 ? 3 : 2; }

// Columns as a format's kernel takes them.
template <Format kFormat>
struct Stage {
  static constexpr int kChunk = Chunk<kFormat>::kSize;
  static constexpr int kStrip = 4 * kChunk;
  static constexpr int kStrips = kChunk == 32 ? 1 : 2;  // of a warp
  static constexpr int kColumns = kColumnWarps * kStrips * kStrip;
  // Bytes of a token's activations in shared memory. A quarter of a warp reads 16 bytes each of
  // two tokens, half a warp 8 bytes each of four: padding keeps those in different banks.
  static constexpr int kPitch = 2 * kColumns + (kChunk == 16 ? 32 : 64);
};

struct TilesArgs {
  WeightLayout layout;
  LinearPointers weight;
  const uint16_t* x = nullptr;
  int64_t tokens = 0;
  int split_stages = 0;  // of a split
  const float* bias = nullptr;
  float* y = nullptr;  // [splits, tokens, rows]
};

__device__ inline unsigned WordOf(const uint4& words, int i) {
  return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

// Word w of lane l of four goes to lane w as its word l.
__device__ inline void TransposeWords(uint4& words, int lane) {
  const bool odd = lane % 2 != 0, upper = lane / 2 % 2 != 0;
  const unsigned x = __shfl_xor_sync(kAllLanes, odd ? words.x : words.y, 1);
  const unsigned z = __shfl_xor_sync(kAllLanes, odd ? words.z : words.w, 1);
  words = {odd ? x : words.x, odd ? words.y : x, odd ? z : words.z, odd ? words.w : z};
  const unsigned low = __shfl_xor_sync(kAllLanes, upper ? words.x : words.z, 2);
  const unsigned high = __shfl_xor_sync(kAllLanes, upper ? words.y : words.w, 2);
  words = {upper ? low : words.x, upper ? high : words.y, upper ? words.z : low,
           upper ? words.w : high};
}

// Two values that the type holds exactly, the first in the lower half.
template <DType kType>
__device__ unsigned ExactPair(float low, float high) {
  if constexpr (kType == DType::kBF16) {
    return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632u);
  } else {
    return F16Bits(low) | static_cast<unsigned>(F16Bits(high)) << 16;
  }
}

template <DType kType>
__device__ unsigned SubtractPair(unsigned a, unsigned b) {
  const auto low = [](unsigned pair) { return static_cast<unsigned short>(pair); };
  const auto high = [](unsigned pair) { return static_cast<unsigned short>(pair >> 16); };
  if constexpr (kType == DType::kBF16) {
    const __nv_bfloat162_raw out = __hsub2(__nv_bfloat162(__nv_bfloat162_raw{low(a), high(a)}),
                                           __nv_bfloat162(__nv_bfloat162_raw{low(b), high(b)}));
    return out.x | static_cast<unsigned>(out.y) << 16;
  } else {
    const __half2_raw out =
        __hsub2(__half2(__half2_raw{low(a), high(a)}), __half2(__half2_raw{low(b), high(b)}));
    return out.x | static_cast<unsigned>(out.y) << 16;
  }
}

// With a code in the last four bits of its mantissa, this number is itself plus the code.
template <DType kType>
constexpr unsigned kCodeBase = kType == DType::kBF16 ? 0x4300u : 0x6400u;  // 128, 1024

// The eight codes of a word minus their zero points (a pair of them, with kCodeBase): pair j holds
// codes j and j + 4.
template <DType kType>
__device__ void WidenFours(unsigned word, unsigned zeros, unsigned (&pairs)[4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const unsigned codes = (word >> (4 * j) & 0x000f000fu) | kCodeBase<kType> * 0x00010001u;
    pairs[j] = SubtractPair<kType>(codes, zeros);
  }
}

// What a lane holds of a strip: chunks of its two rows, which are 8 apart.
struct Strip {
  uint4 chunks[2];
  float scales[2];
  unsigned zeros;  // kCodeBase and the zero point of the first row, of the second above
};

template <Format kFormat, DType kType>
__device__ Strip LoadStrip(const TilesArgs& a, const int (&rows)[2], int chunk) {
  Strip strip = {};
  const WeightLayout& l = a.layout;
  const bool inside = chunk < l.chunks;
  for (int r = 0; r < 2; ++r) {
    if (inside) {
      strip.chunks[r] = LoadOnce(static_cast<const char*>(a.weight.weight) +
                                 (static_cast<int64_t>(rows[r]) * l.chunks + chunk) * 16);
    }
    if constexpr (Chunk<kFormat>::kQuantized) {
      const ChunkPlace place = PlaceOf(l, inside ? chunk : l.chunks - 1, Chunk<kFormat>::kSize);
      const int64_t index = static_cast<int64_t>(rows[r]) * l.groups + place.group;
      strip.scales[r] = ScaleAt(l, a.weight.scales, index);
      if constexpr (kFormat == Format::kI4) {
        const unsigned zero = l.zero_points ? a.weight.zeros[index] : 8u;
        strip.zeros |= (kCodeBase<kType> | zero) << (16 * r);
      }
    }
  }
  return strip;
}

// Activations of columns from `first` on into shared memory, zeros beyond tokens and columns;
// of INT4, eight columns in the order of WidenFours.
template <Format kFormat, int kTokens>
__device__ void StageActivations(const TilesArgs& a, int64_t first_token, int first, char* shared) {
  using S = Stage<kFormat>;
  constexpr int kVectors = S::kColumns / 8;  // of a token, 16 bytes each
  constexpr int kRounds = (kTokens * kVectors + kThreads - 1) / kThreads;
  constexpr int kAtOnce = kRounds < 4 ? kRounds : 4;
#pragma unroll 1
  for (int done = 0; done < kTokens * kVectors; done += kAtOnce * kThreads) {
    uint4 held[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int vector = done + static_cast<int>(threadIdx.x) + i * kThreads;
      const int64_t token = first_token + vector / kVectors;
      const int column = first + vector % kVectors * 8;
      held[i] = {};
      if (vector < kTokens * kVectors && token < a.tokens && column < a.layout.columns) {
        held[i] = *reinterpret_cast<const uint4*>(a.x + token * a.layout.columns + column);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int vector = done + static_cast<int>(threadIdx.x) + i * kThreads;
      if (vector >= kTokens * kVectors) break;
      uint4 x = held[i];
      if constexpr (kFormat == Format::kI4) {
        x = {__byte_perm(held[i].x, held[i].z, 0x5410u), __byte_perm(held[i].x, held[i].z, 0x7632u),
             __byte_perm(held[i].y, held[i].w, 0x5410u),
             __byte_perm(held[i].y, held[i].w, 0x7632u)};
      }
      *reinterpret_cast<uint4*>(shared + vector / kVectors * S::kPitch + vector % kVectors * 16) =
          x;
    }
  }
}

// sums += two products of 16 columns each, by the words of `x` of a lane for each tile of tokens.
template <Format kFormat, DType kType, int kTiles>
__device__ void MultiplyTwice(const unsigned (&w)[2][4], const char* x, float (&sums)[kTiles][4]) {
  constexpr int kAtOnce = kTiles < 4 ? kTiles : 4;
#pragma unroll
  for (int first = 0; first < kTiles; first += kAtOnce) {
    uint4 words[kAtOnce];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      words[n] = *reinterpret_cast<const uint4*>(x + (first + n) * 8 * Stage<kFormat>::kPitch);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const unsigned b[2] = {WordOf(words[n], 2 * half), WordOf(words[n], 2 * half + 1)};
        MultiplyTiles<kType>(w[half], b, sums[first + n]);
      }
    }
  }
}

// Elements: x is the lane's 16 bytes of the strip.
template <Format kFormat, DType kType, int kTiles>
__device__ void MultiplyElements(const Strip& strip, const char* x, float (&sums)[kTiles][4]) {
  const uint4& top = strip.chunks[0];
  const uint4& bottom = strip.chunks[1];
  const unsigned w[2][4] = {{top.x, bottom.x, top.y, bottom.y}, {top.z, bottom.z, top.w, bottom.w}};
  MultiplyTwice<kFormat, kType, kTiles>(w, x, sums);
}

// Codes of the strip from `chunk` on: x is its first column's.
template <Format kFormat, DType kType, int kTiles>
__device__ void MultiplyCodes(const WeightLayout& l, Strip& strip, int chunk, const char* x,
                              float (&sums)[kTiles][4]) {
  using C = Chunk<kFormat>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  TransposeWords(strip.chunks[0], lane);
  TransposeWords(strip.chunks[1], lane);
  float dots[kTiles][4] = {};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    const unsigned words[2] = {WordOf(strip.chunks[0], c), WordOf(strip.chunks[1], c)};
    const int owner = lane / 4 * 4 + c;
    const char* const at = x + c * C::kSize * 2;
    if constexpr (kFormat == Format::kI4) {
      const unsigned zeros = __shfl_sync(kAllLanes, strip.zeros, owner);
      unsigned pairs[2][4];
      for (int r = 0; r < 2; ++r) {
        WidenFours<kType>(words[r], __byte_perm(zeros, 0, r == 0 ? 0x1010u : 0x3232u), pairs[r]);
      }
      const unsigned w[2][4] = {{pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]},
                                {pairs[0][2], pairs[1][2], pairs[0][3], pairs[1][3]}};
      MultiplyTwice<kFormat, kType, kTiles>(w, at + lane % 4 * 16, dots);
    } else {
      float values[2][4];
      for (int r = 0; r < 2; ++r) C::WidenWord(words[r], values[r]);
      const unsigned w[4] = {ExactPair<kType>(values[0][0], values[0][1]),
                             ExactPair<kType>(values[1][0], values[1][1]),
                             ExactPair<kType>(values[0][2], values[0][3]),
                             ExactPair<kType>(values[1][2], values[1][3])};
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const uint2 two =
            *reinterpret_cast<const uint2*>(at + lane % 4 * 8 + n * 8 * Stage<kFormat>::kPitch);
        const unsigned b[2] = {two.x, two.y};
        MultiplyTiles<kType>(w, b, dots[n]);
      }
    }
    const auto group = [&l](int of) { return (of * C::kSize + l.group_offset) >> l.group_shift; };
    if (c < 3 && group(chunk + c + 1) == group(chunk + c)) continue;
    const float top = __shfl_sync(kAllLanes, strip.scales[0], owner);
    const float bottom = __shfl_sync(kAllLanes, strip.scales[1], owner);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        sums[n][s] = fmaf(s < 2 ? top : bottom, dots[n][s], sums[n][s]);
        dots[n][s] = 0;
      }
    }
  }
}

template <Format kFormat, DType kType, int kTiles>
__global__ void __launch_bounds__(kThreads, BlocksOf(kTiles)) LinearTilesKernel(TilesArgs a) {
  using S = Stage<kFormat>;
  constexpr int kTokens = 8 * kTiles;
  static_assert(kTokens * S::kPitch >= kTiles * 4 * 32 * kRowWarps * 4);  // and for the sums
  TANDEM_SHARED(uint4, shared, kTokens * S::kPitch / 16);
  const WeightLayout& l = a.layout;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row_warp = warp % kRowWarps, column_warp = warp / kRowWarps;
  const int row = static_cast<int>(blockIdx.x) * kRows + row_warp * 16 + lane / 4;
  const int rows[2] = {row < l.rows ? row : l.rows - 1, row + 8 < l.rows ? row + 8 : l.rows - 1};
  const int64_t first_token = static_cast<int64_t>(blockIdx.z) * kTokens;
  const int stages = (l.chunks * S::kChunk + S::kColumns - 1) / S::kColumns;
  const int begin = static_cast<int>(blockIdx.y) * a.split_stages;
  const int end = begin + a.split_stages < stages ? begin + a.split_stages : stages;
  // Of the warp, in a stage.
  const int warp_strip = column_warp * S::kStrips;
  const char* const x =
      reinterpret_cast<const char*>(shared) + lane / 4 * S::kPitch + warp_strip * S::kStrip * 2;

  float sums[kTiles][4] = {};
  Strip strips[S::kStrips], next[S::kStrips];
  const auto load = [&](int stage) {
#pragma unroll
    for (int s = 0; s < S::kStrips; ++s) {
      const int chunk = (stage * kColumnWarps * S::kStrips + warp_strip + s) * 4;
      next[s] = LoadStrip<kFormat, kType>(a, rows, chunk + lane % 4);
    }
  };
  load(begin);  // before the previous kernel has ended: weights do not change
  AwaitPrevious();
  StartNext();
  for (int stage = begin; stage < end; ++stage) {
#pragma unroll
    for (int s = 0; s < S::kStrips; ++s) strips[s] = next[s];
    if (stage + 1 < end) load(stage + 1);
    StageActivations<kFormat, kTokens>(a, first_token, stage * S::kColumns,
                                       reinterpret_cast<char*>(shared));
    __syncthreads();
#pragma unroll
    for (int s = 0; s < S::kStrips; ++s) {
      if constexpr (Chunk<kFormat>::kQuantized) {
        const int chunk = (stage * kColumnWarps * S::kStrips + warp_strip + s) * 4;
        MultiplyCodes<kFormat, kType, kTiles>(l, strips[s], chunk, x + s * S::kStrip * 2, sums);
      } else {
        MultiplyElements<kFormat, kType, kTiles>(strips[s], x + s * S::kStrip * 2 + lane % 4 * 16,
                                                 sums);
      }
    }
    __syncthreads();
  }

  float* const others = reinterpret_cast<float*>(shared) + row_warp * kTiles * 4 * 32 + lane;
  static_assert(kColumnWarps == 2);
  if (column_warp == 1) {
    for (int i = 0; i < kTiles * 4; ++i) others[i * 32] = sums[i / 4][i % 4];
  }
  __syncthreads();
  if (column_warp == 1) return;
#pragma unroll
  for (int i = 0; i < kTiles * 4; ++i) {
    const int out_row = row + i % 4 / 2 * 8;
    const int64_t token = first_token + i / 4 * 8 + lane % 4 * 2 + i % 2;
    float sum = sums[i / 4][i % 4] + others[i * 32];
    if (out_row >= l.rows || token >= a.tokens) continue;
    if (a.bias != nullptr) sum += a.bias[out_row];
    a.y[(blockIdx.y * a.tokens + token) * l.rows + out_row] = sum;
  }
}

__global__ void AddSplitsKernel(const float* partials, int splits, int64_t count, const float* bias,
                                int rows, float* y) {
  AwaitPrevious();
  StartNext();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float sum = 0;
  for (int s = 0; s < splits; ++s) sum += partials[s * count + i];
  y[i] = bias == nullptr ? sum : sum + bias[i % rows];
}

int StageColumns(Format format) {
  switch (format) {
    case Format::kI8:
    case Format::kF8:
      return Stage<Format::kI8>::kColumns;
    case Format::kI4:
      return Stage<Format::kI4>::kColumns;
    default:
      return Stage<Format::kBF16>::kColumns;
  }
}

int StagesOf(const WeightLayout& layout) {
  const int columns = StageColumns(layout.format);
  return (layout.chunks * layout.chunk() + columns - 1) / columns;
}

template <Format kFormat, DType kType>
void Dispatch(const LaunchShape& shape, int64_t tokens, const TilesArgs& args) {
  if (tokens <= 8) return Launch(shape, &LinearTilesKernel<kFormat, kType, 1>, args);
  if (tokens <= 16) return Launch(shape, &LinearTilesKernel<kFormat, kType, 2>, args);
  if (tokens <= 32) return Launch(shape, &LinearTilesKernel<kFormat, kType, 4>, args);
  Launch(shape, &LinearTilesKernel<kFormat, kType, kTileTokens / 8>, args);
}

template <Format kFormat>
void DispatchCodes(const LaunchShape& shape, DType dtype, int64_t tokens, const TilesArgs& args) {
  if (dtype == DType::kBF16) return Dispatch<kFormat, DType::kBF16>(shape, tokens, args);
  Dispatch<kFormat, DType::kF16>(shape, tokens, args);
}

}  // namespace

bool Tileable(const WeightLayout& layout) {
  // An INT8 code minus its zero point can need more bits than a 16-bit type has.
  const bool exact =
      layout.format != Format::kF32 && (layout.format != Format::kI8 || !layout.zero_points);
  return exact && layout.plain() && layout.columns % 8 == 0;
}

int TileSplits(const WeightLayout& layout, int64_t tokens, int multiprocessors,
               size_t scratch_bytes) {
  const int64_t passes = (tokens + kTileTokens - 1) / kTileTokens;
  const int64_t blocks = (layout.rows + kRows - 1) / kRows * passes;
  const int64_t at_once = int64_t{BlocksOf(static_cast<int>(tokens + 7) / 8)} * multiprocessors;
  const int64_t room = static_cast<int64_t>(scratch_bytes / sizeof(float)) / (tokens * layout.rows);
  const int64_t stages = StagesOf(layout);
  const int64_t most = std::min<int64_t>({room, kMostSplits, stages});
  // Estimated cost, in units of one stage of all blocks at once: the stages that blocks take one
  // after another, and writing and reading the splits' sums, with one more launch.
  const auto stage_bytes = static_cast<double>(int64_t{kRows} * StageColumns(layout.format) /
                                               layout.chunk() * 16 * at_once);
  const auto sum_bytes = static_cast<double>(tokens * layout.rows * int64_t{2 * sizeof(float)});
  int64_t best = 1;
  double least = 0;
  for (int64_t splits = 1; splits <= most; ++splits) {
    const int64_t each = (stages + splits - 1) / splits;
    double taken = static_cast<double>((blocks * splits + at_once - 1) / at_once * each);
    if (splits > 1) taken += 1 + static_cast<double>(splits) * sum_bytes / stage_bytes;
    if (splits > 1 && taken >= least) continue;
    best = splits;
    least = taken;
  }
  const int64_t each = (stages + best - 1) / best;
  return static_cast<int>((stages + each - 1) / each);
}

void LinearTiles(cudaStream_t stream, const WeightLayout& layout, const LinearPointers& weight,
                 DType dtype, const void* x, int64_t tokens, const float* bias, int splits,
                 float* partials, float* y) {
  if (layout.rows == 0 || layout.columns == 0 || tokens == 0) return;
  const int64_t passes = (tokens + kTileTokens - 1) / kTileTokens;
  const LaunchShape shape = {
      .grid = dim3((layout.rows + kRows - 1) / kRows, splits, static_cast<unsigned>(passes)),
      .block = dim3(kThreads),
      .stream = stream};
  const TilesArgs args = {.layout = layout,
                          .weight = weight,
                          .x = static_cast<const uint16_t*>(x),
                          .tokens = tokens,
                          .split_stages = (StagesOf(layout) + splits - 1) / splits,
                          .bias = splits == 1 ? bias : nullptr,
                          .y = splits == 1 ? y : partials};
  switch (layout.format) {
    case Format::kF32:
      return;  // Tileable refuses it
    case Format::kF16:
      Dispatch<Format::kF16, DType::kF16>(shape, tokens, args);
      break;
    case Format::kBF16:
      Dispatch<Format::kBF16, DType::kBF16>(shape, tokens, args);
      break;
    case Format::kI8:
      DispatchCodes<Format::kI8>(shape, dtype, tokens, args);
      break;
    case Format::kI4:
      DispatchCodes<Format::kI4>(shape, dtype, tokens, args);
      break;
    case Format::kF8:
      DispatchCodes<Format::kF8>(shape, dtype, tokens, args);
      break;
  }
  if (splits == 1) return;
  const int64_t count = tokens * layout.rows;
  Launch({.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
          .block = dim3(kThreads),
          .stream = stream},
         &AddSplitsKernel, partials, splits, count, bias, layout.rows, y);
}

}  // namespace tandem::kernels::cuda
