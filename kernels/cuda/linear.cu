// Products of few tokens: reading the weights once is what takes time. A block has some rows of the
// weight. Its warps divide the columns, a lane takes 16 bytes of each row at a time, and sums are
// added at the end. A block has so few rows that even narrow shards fill a GPU.
//
// With a tree, groups of lanes take whole leaves instead. So a leaf's sum has one order, whatever
// other leaves, warps or tokens there are. Sums go to shared memory, and one thread for each output
// adds them along the tree.
#include <cuda_device.h>

#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_chunk.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kMaxWarps = 8;
constexpr int kIterations = 4;  // of each warp, at least: else fewer warps divide the columns
constexpr int kPrefetched = 2;  // chunks of a row for each thread
constexpr int64_t kSharedLimit = 48 << 10;

struct PassArgs {
  WeightLayout layout;
  LinearPointers weight;
  const float* x = nullptr;
  int64_t tokens = 0, begin = 0;
  int count = 0;
  bool aligned = false;  // x may be read 16 bytes at a time
  int leaf_lanes = 0;    // lanes that add up one leaf
  const float* bias = nullptr;
  float* y = nullptr;
};

template <int kCount>
__device__ void LoadX(const float* x, int valid, bool aligned, float* out) {
  if (aligned && valid >= kCount) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(x + i);
      out[i] = four.x;
      out[i + 1] = four.y;
      out[i + 2] = four.z;
      out[i + 3] = four.w;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) out[i] = i < valid ? x[i] : 0.0f;
}

// sums[row][token] += chunk of each row times the tokens' activations.
template <Format kFormat, int kRows, int kTokens>
__device__ void AddChunk(const PassArgs& a, int first_row, int chunk,
                         float (&sums)[kRows][kTokens]) {
  using C = Chunk<kFormat>;
  const WeightLayout& l = a.layout;
  uint4 raw[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const int row = first_row + r < l.rows ? first_row + r : l.rows - 1;
    raw[r] = LoadOnce(static_cast<const char*>(a.weight.weight) +
                      (static_cast<int64_t>(row) * l.chunks + chunk) * 16);
  }
  const ChunkPlace place = PlaceOf(l, chunk, C::kSize);
  float dots[kRows][kTokens] = {};
  float x_sums[kTokens] = {};
#pragma unroll
  for (int part = 0; part < C::kSize / C::kPart; ++part) {
    float w[kRows][C::kPart];
#pragma unroll
    for (int r = 0; r < kRows; ++r) C::Widen(raw[r], part, w[r]);
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const int64_t token = a.begin + (t < a.count ? t : a.count - 1);
      float x[C::kPart];
      LoadX<C::kPart>(a.x + token * l.columns + place.column + part * C::kPart,
                      place.valid - part * C::kPart, a.aligned, x);
#pragma unroll
      for (int i = 0; i < C::kPart; ++i) {
        if constexpr (C::kQuantized) {
          x_sums[t] += x[i];
#pragma unroll
          for (int r = 0; r < kRows; ++r) dots[r][t] = fmaf(w[r][i], x[i], dots[r][t]);
        } else {
#pragma unroll
          for (int r = 0; r < kRows; ++r) sums[r][t] = fmaf(w[r][i], x[i], sums[r][t]);
        }
      }
    }
  }
  if constexpr (C::kQuantized) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = first_row + r < l.rows ? first_row + r : l.rows - 1;
      const int64_t index = static_cast<int64_t>(row) * l.groups + place.group;
      const float scale = ScaleAt(l, a.weight.scales, index);
      const float zero = ZeroAt(l, a.weight.zeros, index) + static_cast<float>(C::kOffset);
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        sums[r][t] = fmaf(scale, fmaf(-zero, x_sums[t], dots[r][t]), sums[r][t]);
      }
    }
  }
}

template <int kRows, int kTokens>
__device__ void StoreSum(const PassArgs& a, int output, int subtree, float sum) {
  const int row = static_cast<int>(blockIdx.x) * kRows + output / kTokens;
  const int t = output % kTokens;
  if (row >= a.layout.rows || t >= a.count) return;
  if (a.bias != nullptr) sum += a.bias[row];
  a.y[(subtree * a.tokens + a.begin + t) * a.layout.rows + row] = sum;
}

// Prefetches what the block reads first while the previous kernel is still at work: weights do not
// change.
template <int kRows>
__device__ void PrefetchRows(const PassArgs& a, int first_row) {
  const WeightLayout& l = a.layout;
  for (int r = 0; r < kRows && first_row + r < l.rows; ++r) {
    const char* const row = static_cast<const char*>(a.weight.weight) +
                            static_cast<int64_t>(first_row + r) * l.chunks * 16;
    for (int i = 0; i < kPrefetched; ++i) {
      const int chunk = static_cast<int>(threadIdx.x + i * blockDim.x);
      if (chunk < l.chunks) PrefetchLine(row + int64_t{16} * chunk);
    }
  }
}

template <Format kFormat, int kRows, int kTokens>
__global__ void __launch_bounds__(kMaxWarps * 32) LinearKernel(PassArgs a) {
  constexpr int kOutputs = kRows * kTokens;
  TANDEM_SHARED(float, warp_sums, kMaxWarps* kOutputs);
  const int first_row = static_cast<int>(blockIdx.x) * kRows;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int threads = static_cast<int>(blockDim.x);
  PrefetchRows<kRows>(a, first_row);
  AwaitPrevious();
  StartNext();
  float sums[kRows][kTokens] = {};
#pragma unroll 2
  for (int c = static_cast<int>(threadIdx.x); c < a.layout.chunks; c += threads) {
    AddChunk<kFormat, kRows, kTokens>(a, first_row, c, sums);
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const float sum = SumLanes(sums[r][t]);
      if (lane == 0) warp_sums[warp * kOutputs + r * kTokens + t] = sum;
    }
  }
  __syncthreads();
  for (int output = static_cast<int>(threadIdx.x); output < kOutputs; output += threads) {
    float sum = 0;
    for (int w = 0; w < threads / 32; ++w) sum += warp_sums[w * kOutputs + output];
    StoreSum<kRows, kTokens>(a, output, 0, sum);
  }
}

template <Format kFormat, int kRows, int kTokens>
__global__ void __launch_bounds__(kMaxWarps * 32) LinearTreeKernel(PassArgs a) {
  constexpr int kOutputs = kRows * kTokens;
  TANDEM_DYNAMIC_SHARED(float, leaf_sums);  // [leaves, kOutputs]
  const WeightLayout& l = a.layout;
  const int first_row = static_cast<int>(blockIdx.x) * kRows;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int lanes = a.leaf_lanes;
  const int at_once = 32 / lanes;  // leaves of a warp
  const int leaf_chunks = l.leaf_spans * l.span_chunks;
  PrefetchRows<kRows>(a, first_row);
  AwaitPrevious();
  StartNext();
  for (int first = warp * at_once; first < l.leaves; first += warps * at_once) {
    const int leaf = first + lane / lanes;
    float sums[kRows][kTokens] = {};
    if (leaf < l.leaves) {
      const int begin = leaf * leaf_chunks;
      const int end = begin + leaf_chunks < l.chunks ? begin + leaf_chunks : l.chunks;
      for (int c = begin + lane % lanes; c < end; c += lanes) {
        AddChunk<kFormat, kRows, kTokens>(a, first_row, c, sums);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        float sum = sums[r][t];
        for (int n = lanes / 2; n > 0; n /= 2) sum += __shfl_xor_sync(kAllLanes, sum, n);
        if (leaf < l.leaves && lane % lanes == 0) {
          leaf_sums[leaf * kOutputs + r * kTokens + t] = sum;
        }
      }
    }
  }
  __syncthreads();
  for (int output = static_cast<int>(threadIdx.x); output < kOutputs;
       output += static_cast<int>(blockDim.x)) {
    // The stack of LeafSchedule; it takes the place of leaves that were added already.
    int height = 0, subtree = 0;
    for (int leaf = 0; leaf < l.leaves; ++leaf) {
      const int step = a.weight.tree[leaf];
      float top = leaf_sums[leaf * kOutputs + output];
      for (int merges = step / 2; merges > 0; --merges) {
        top = leaf_sums[--height * kOutputs + output] + top;
      }
      if (step % 2 != 0) {
        StoreSum<kRows, kTokens>(a, output, subtree++, top);
      } else {
        leaf_sums[height++ * kOutputs + output] = top;
      }
    }
  }
}

template <Format kFormat>
__global__ void DequantizeKernel(WeightLayout l, LinearPointers weight, int64_t row_begin,
                                 unsigned blocks, bool half, uint16_t* out) {
  using C = Chunk<kFormat>;
  AwaitPrevious();
  StartNext();
  const int64_t out_row = blockIdx.x / blocks;
  const int64_t row = row_begin + out_row;
  const int chunk = static_cast<int>(blockIdx.x % blocks * blockDim.x + threadIdx.x);
  if (chunk >= l.chunks) return;
  const uint4 raw =
      LoadOnce(static_cast<const char*>(weight.weight) + (row * l.chunks + chunk) * 16);
  const ChunkPlace place = PlaceOf(l, chunk, C::kSize);
  const int64_t index = row * l.groups + place.group;
  const float scale = ScaleAt(l, weight.scales, index);
  const float zero = ZeroAt(l, weight.zeros, index) + static_cast<float>(C::kOffset);
  uint16_t* to = out + out_row * l.columns + place.column;
  for (int part = 0; part < C::kSize / C::kPart; ++part) {
    float w[C::kPart];
    C::Widen(raw, part, w);
    for (int i = 0; i < C::kPart; ++i) {
      const int column = part * C::kPart + i;
      const float value = (w[i] - zero) * scale;
      if (column < place.valid) to[column] = half ? F16Bits(value) : FloatToBf16(value);
    }
  }
}

template <Format kFormat, int kRows, int kTokens>
void LaunchPass(cudaStream_t stream, const PassArgs& args) {
  const WeightLayout& l = args.layout;
  int warps = l.chunks / (32 * kIterations);
  warps = warps < 1 ? 1 : warps > kMaxWarps ? kMaxWarps : warps;
  LaunchShape shape = {
      .grid = dim3((l.rows + kRows - 1) / kRows), .block = dim3(32 * warps), .stream = stream};
  if (args.weight.tree == nullptr) {
    Launch(shape, &LinearKernel<kFormat, kRows, kTokens>, args);
    return;
  }
  shape.shared_bytes = sizeof(float) * l.leaves * kRows * kTokens;
  Launch(shape, &LinearTreeKernel<kFormat, kRows, kTokens>, args);
}

template <Format kFormat>
void Dispatch(cudaStream_t stream, const PassArgs& args) {
  // The number of rows and tokens does not change an output's order of additions: take fewer if
  // the sums of a tree's leaves would not fit.
  const int64_t output_bytes = int64_t{sizeof(float)} * args.layout.leaves;
  PassArgs part = args;
  const int most = output_bytes * 16 <= kSharedLimit ? 8 : output_bytes * 4 <= kSharedLimit ? 2 : 1;
  for (int done = 0; done < args.count; done += part.count) {
    part.begin = args.begin + done;
    part.count = args.count - done < most ? args.count - done : most;
    if (part.count > 4) {
      LaunchPass<kFormat, 2, 8>(stream, part);
    } else if (part.count > 2) {
      LaunchPass<kFormat, 4, 4>(stream, part);
    } else if (part.count > 1) {
      LaunchPass<kFormat, 2, 2>(stream, part);
    } else {
      LaunchPass<kFormat, 2, 1>(stream, part);
    }
  }
}

}  // namespace

void LinearPass(cudaStream_t stream, const WeightLayout& layout, const LinearPointers& weight,
                const float* x, int64_t tokens, int64_t begin, int64_t count, const float* bias,
                float* y) {
  if (layout.rows == 0 || layout.columns == 0 || count == 0) return;
  PassArgs args = {.layout = layout,
                   .weight = weight,
                   .x = x,
                   .tokens = tokens,
                   .begin = begin,
                   .count = static_cast<int>(count),
                   .aligned = layout.columns % 4 == 0 && layout.span % 4 == 0,
                   .leaf_lanes = 1,
                   .bias = bias,
                   .y = y};
  const int leaf_chunks = layout.leaf_spans * layout.span_chunks;
  while (args.leaf_lanes < 32 && args.leaf_lanes < leaf_chunks) args.leaf_lanes *= 2;
  switch (layout.format) {
    case Format::kF32:
      return Dispatch<Format::kF32>(stream, args);
    case Format::kF16:
      return Dispatch<Format::kF16>(stream, args);
    case Format::kBF16:
      return Dispatch<Format::kBF16>(stream, args);
    case Format::kI8:
      return Dispatch<Format::kI8>(stream, args);
    case Format::kI4:
      return Dispatch<Format::kI4>(stream, args);
    case Format::kF8:
      return Dispatch<Format::kF8>(stream, args);
  }
}

void Dequantize(cudaStream_t stream, const WeightLayout& layout, const LinearPointers& weight,
                int64_t row_begin, int64_t row_end, DType dtype, void* out) {
  if (row_begin == row_end || layout.chunks == 0) return;
  // Not in the grid's y, which has 65535 blocks at most.
  const unsigned blocks = (layout.chunks + 127) / 128;  // of a row
  const LaunchShape shape = {.grid = dim3(blocks * static_cast<unsigned>(row_end - row_begin)),
                             .block = dim3(128),
                             .stream = stream};
  Launch(shape,
         layout.format == Format::kI8   ? &DequantizeKernel<Format::kI8>
         : layout.format == Format::kF8 ? &DequantizeKernel<Format::kF8>
                                        : &DequantizeKernel<Format::kI4>,
         layout, weight, row_begin, blocks, dtype == DType::kF16, static_cast<uint16_t*>(out));
}

}  // namespace tandem::kernels::cuda
