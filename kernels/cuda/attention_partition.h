// Attention of some rows ((token, query head) pairs that read one KV head) over one partition of a
// context, by a block of kPartition threads.
#pragma once

#include <cuda_device.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.h"

namespace tandem::kernels::cuda {

constexpr int kBlock = static_cast<int>(KvCacheView::kBlock);
constexpr int kPartitionWarps = kPartition / 32;

// Softmax so far: values are sums weighted by exponentials relative to max; thread i has
// dimensions i + kPartition n.
template <int kRows, int kDims>
struct RowSums {
  float max[kRows];
  float sum[kRows];
  float values[kRows][kDims];
};

// The block's scratch.
template <int kRows>
struct PartitionScratch {
  float* q;        // [kRows, dimensions, to a multiple of 4 with zeros], scaled
  float* weights;  // [kRows, kPartition]
  float* partial;  // [2, kPartitionWarps, kRows]
  int q_stride;
};

// Four dimensions of a key, from a multiple of four on.
template <KvDType kType>
__device__ inline void LoadKey(const char* run, int dim, int position, int head_dim, float* out) {
  if constexpr (kType == KvDType::kI8) {
    const unsigned word = reinterpret_cast<const unsigned*>(run)[dim / 4 * kBlock + position];
    for (int i = 0; i < 4; ++i) {
      out[i] = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7540u + i)) - 8388736.0f;
    }
  } else {
    // head_dim is even.
    for (int i = 0; i < 4; i += 2) {
      if (dim + i >= head_dim) {
        out[i] = out[i + 1] = 0;
      } else if constexpr (kType == KvDType::kBF16) {
        const unsigned word =
            reinterpret_cast<const unsigned*>(run)[(dim + i) / 2 * kBlock + position];
        out[i] = Bf16Low(word);
        out[i + 1] = Bf16High(word);
      } else if constexpr (kType == KvDType::kF16) {
        const auto* half = reinterpret_cast<const uint16_t*>(run) + position;
        out[i] = F16Value(half[(dim + i) * kBlock]);
        out[i + 1] = F16Value(half[(dim + i + 1) * kBlock]);
      } else {
        const auto* single = reinterpret_cast<const float*>(run) + position;
        out[i] = single[(dim + i) * kBlock];
        out[i + 1] = single[(dim + i + 1) * kBlock];
      }
    }
  }
}

// One dimension of four positions' values, from a multiple of four on.
template <KvDType kType>
__device__ inline void LoadValues(const char* run, int position, int dim, int v_stride,
                                  float* out) {
  if constexpr (kType == KvDType::kI8) {
    const unsigned word = reinterpret_cast<const unsigned*>(run)[position / 4 * v_stride + dim];
    for (int i = 0; i < 4; ++i) {
      // Signed: the sign bit flipped makes it 128 more.
      const unsigned bits = __byte_perm(word ^ 0x80808080u, 0x4b000000u, 0x7540u + i);
      out[i] = __uint_as_float(bits) - 8388736.0f;
    }
  } else if constexpr (kType == KvDType::kBF16) {
    for (int i = 0; i < 4; i += 2) {
      const unsigned word =
          reinterpret_cast<const unsigned*>(run)[(position + i) / 2 * v_stride + dim];
      out[i] = Bf16Low(word);
      out[i + 1] = Bf16High(word);
    }
  } else {
    for (int i = 0; i < 4; ++i) {
      if constexpr (kType == KvDType::kF16) {
        out[i] = F16Value(reinterpret_cast<const uint16_t*>(run)[(position + i) * v_stride + dim]);
      } else {
        out[i] = reinterpret_cast<const float*>(run)[(position + i) * v_stride + dim];
      }
    }
  }
}

// The partition [begin, begin + n) of the context of `table`; row r sees the first seen[r] of
// its positions. A row that sees none gets -infinity, 0 and zeros. No thread reads the
// scratch when this begins or ends.
template <KvDType kType, int kRows, int kDims>
__device__ void AttendPartition(const AttentionArgs& a, int kv_head, const int32_t* table,
                                int begin, int n, const int (&seen)[kRows],
                                const PartitionScratch<kRows>& scratch,
                                RowSums<kRows, kDims>& out) {
  const KvCacheView& cache = a.cache;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int d = a.head_dim;

  // Scores: thread j has position j.
  float scores[kRows] = {};
  float v_scale = 1;
  if (thread < n) {
    const int64_t block = table[(begin + thread) / kBlock];
    const int position = thread % kBlock;
    const char* const run = static_cast<const char*>(cache.k) + block * cache.k_block_bytes() +
                            kv_head * cache.k_head_bytes();
#pragma unroll 8
    for (int dim = 0; dim < d; dim += 4) {
      float key[4];
      LoadKey<kType>(run, dim, position, d, key);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 q = *reinterpret_cast<const float4*>(scratch.q + r * scratch.q_stride + dim);
        scores[r] = fmaf(q.x, key[0], scores[r]);
        scores[r] = fmaf(q.y, key[1], scores[r]);
        scores[r] = fmaf(q.z, key[2], scores[r]);
        scores[r] = fmaf(q.w, key[3], scores[r]);
      }
    }
    if constexpr (kType == KvDType::kI8) {
      const float k_scale = reinterpret_cast<const float*>(run + cache.k_code_bytes())[position];
      for (int r = 0; r < kRows; ++r) scores[r] *= k_scale;
      const char* const v_head = static_cast<const char*>(cache.v) + block * cache.v_block_bytes() +
                                 kv_head * cache.v_head_bytes();
      v_scale = reinterpret_cast<const float*>(v_head + cache.v_code_bytes())[position];
    }
  }

  // Exponentials relative to the partition's maximum, and their sum.
  float* const maxima = scratch.partial;
  float* const sums = scratch.partial + kPartitionWarps * kRows;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (thread >= seen[r]) scores[r] = -INFINITY;
    const float max = MaxLanes(scores[r]);
    if (lane == 0) maxima[warp * kRows + r] = max;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    float max = maxima[r];
    for (int w = 1; w < kPartitionWarps; ++w) max = fmaxf(max, maxima[w * kRows + r]);
    out.max[r] = max;
    const float weight = thread < seen[r] ? expf(scores[r] - max) : 0.0f;
    const float sum = SumLanes(weight);
    if (lane == 0) sums[warp * kRows + r] = sum;
    scratch.weights[r * kPartition + thread] = weight * v_scale;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    out.sum[r] = 0;
    for (int w = 0; w < kPartitionWarps; ++w) out.sum[r] += sums[w * kRows + r];
#pragma unroll
    for (int i = 0; i < kDims; ++i) out.values[r][i] = 0;
  }

  // Values: thread i has dimensions i + kPartition m.
  const int v_stride = static_cast<int>(cache.v_stride());
  for (int j = 0; j < n; j += kBlock) {
    const int64_t block = table[(begin + j) / kBlock];
    const char* const run = static_cast<const char*>(cache.v) + block * cache.v_block_bytes() +
                            kv_head * cache.v_head_bytes();
    const int positions = n - j < kBlock ? n - j : kBlock;
#pragma unroll
    for (int m = 0; m < kDims; ++m) {
      const int dim = thread + kPartition * m;
      if (dim >= d) continue;
#pragma unroll
      for (int p = 0; p < kBlock; p += 4) {
        if (p >= positions) break;
        float value[4];
        LoadValues<kType>(run, p, dim, v_stride, value);
        // Positions behind the context may hold anything.
        for (int i = 0; i < 4; ++i) value[i] = p + i < positions ? value[i] : 0.0f;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float4 w =
              *reinterpret_cast<const float4*>(scratch.weights + r * kPartition + j + p);
          out.values[r][m] = fmaf(w.x, value[0], out.values[r][m]);
          out.values[r][m] = fmaf(w.y, value[1], out.values[r][m]);
          out.values[r][m] = fmaf(w.z, value[2], out.values[r][m]);
          out.values[r][m] = fmaf(w.w, value[3], out.values[r][m]);
        }
      }
    }
  }
  __syncthreads();
}

// Copies the rows' queries, scaled, to shared memory: row r is head head_of(r) of token
// token_of(r), or zeros if that is negative.
template <int kRows, typename TokenOf, typename HeadOf>
__device__ void LoadQueries(const AttentionArgs& a, const PartitionScratch<kRows>& scratch,
                            const TokenOf& token_of, const HeadOf& head_of) {
  for (int r = 0; r < kRows; ++r) {
    const int64_t token = token_of(r);
    for (int i = static_cast<int>(threadIdx.x); i < scratch.q_stride; i += kPartition) {
      scratch.q[r * scratch.q_stride + i] =
          token >= 0 && i < a.head_dim
              ? a.qkv[token * a.qkv_stride + head_of(r) * a.head_dim + i] * a.scale
              : 0.0f;
    }
  }
  __syncthreads();
}

// Adds the next partition's (max, sum) to the total's; returns the weights of both.
__device__ inline float2 Combine(float& total_max, float& total_sum, float max, float sum) {
  const float joint = fmaxf(total_max, max);
  const float old_weight = expf(total_max - joint), new_weight = expf(max - joint);
  total_sum = fmaf(sum, new_weight, total_sum * old_weight);
  total_max = joint;
  return make_float2(old_weight, new_weight);
}

}  // namespace tandem::kernels::cuda
