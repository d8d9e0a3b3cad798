// One warp for each head: normalizes and rotates queries and keys, and writes keys and values to
// the cache.
#include <cuda_device.h>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_math.h"

namespace tandem::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kPerLane = KvCacheView::kMaxHeadDim / 2 / 32;  // pairs

__device__ unsigned Larger(unsigned a, unsigned b) { return a > b ? a : b; }

// Writes a head's elements. Lane l has dimensions l + 32 n and, in upper, the same dimensions plus
// `half`.
__device__ void CacheHead(const KvCacheView& cache, bool is_key, int slot, int head, int lane,
                          const float (&lower)[kPerLane], const float (&upper)[kPerLane]) {
  const int half = static_cast<int>(cache.head_dim) / 2;
  const int64_t block = slot / KvCacheView::kBlock;
  const int position = static_cast<int>(slot % KvCacheView::kBlock);
  char* const out = is_key ? static_cast<char*>(cache.k) + block * cache.k_block_bytes() +
                                 head * cache.k_head_bytes()
                           : static_cast<char*>(cache.v) + block * cache.v_block_bytes() +
                                 head * cache.v_head_bytes();
  float inverse = 0;
  if (cache.dtype == KvDType::kI8) {
    // Magnitudes are ordered as their bits, NaN last: a NaN must reach the scale.
    unsigned bits = 0;
    for (int n = 0; n < kPerLane; ++n) {
      if (lane + 32 * n >= half) continue;
      bits = Larger(bits, __float_as_uint(fabsf(lower[n])));
      bits = Larger(bits, __float_as_uint(fabsf(upper[n])));
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      bits = Larger(bits, __shfl_xor_sync(kAllLanes, bits, lanes));
    }
    const float most = __uint_as_float(bits);
    const bool tiny = most < 0x1p-100f;
    inverse = tiny ? 0.0f : kKvCodeMax / most;
    if (lane == 0) {
      char* const scales = out + (is_key ? cache.k_code_bytes() : cache.v_code_bytes());
      reinterpret_cast<float*>(scales)[position] = tiny ? 0.0f : most / kKvCodeMax;
    }
  }
  for (int n = 0; n < kPerLane; ++n) {
    for (int part = 0; part < 2; ++part) {
      if (lane + 32 * n >= half) continue;
      const int dim = lane + 32 * n + part * half;
      const float value = part == 0 ? lower[n] : upper[n];
      const int64_t index = is_key ? cache.k_index(dim, position) : cache.v_index(position, dim);
      switch (cache.dtype) {
        case KvDType::kF32:
          reinterpret_cast<float*>(out)[index] = value;
          break;
        case KvDType::kF16:
          reinterpret_cast<uint16_t*>(out)[index] = F16Bits(value);
          break;
        case KvDType::kBF16:
          reinterpret_cast<uint16_t*>(out)[index] = FloatToBf16(value);
          break;
        case KvDType::kI8: {
          const float bounded = fminf(fmaxf(value * inverse, -kKvCodeMax), kKvCodeMax);
          const int code = __float2int_rn(bounded);
          reinterpret_cast<uint8_t*>(out)[index] = static_cast<uint8_t>(is_key ? code + 128 : code);
          break;
        }
      }
    }
  }
}

__global__ void RopeAndCacheKernel(RopeArgs a, unsigned blocks) {
  AwaitPrevious();
  StartNext();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int kv_heads = static_cast<int>(a.cache.kv_heads);
  const int heads = a.q_heads + 2 * kv_heads;
  const int head =
      static_cast<int>(blockIdx.x % blocks) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (head >= heads) return;  // all lanes of the warp alike
  const int d = static_cast<int>(a.cache.head_dim), half = d / 2;
  const int64_t t = blockIdx.x / blocks;
  float* const x = a.qkv + (t * heads + head) * d;
  const bool is_query = head < a.q_heads;
  const bool is_value = head >= a.q_heads + kv_heads;
  float lower[kPerLane], upper[kPerLane];
  float squares = 0;
  for (int n = 0; n < kPerLane; ++n) {
    const int i = lane + 32 * n;
    lower[n] = i < half ? x[i] : 0.0f;
    upper[n] = i < half ? x[half + i] : 0.0f;
    squares = fmaf(lower[n], lower[n], squares);
    squares = fmaf(upper[n], upper[n], squares);
  }
  if (!is_value) {
    const float* const norm = is_query ? a.q_norm : a.k_norm;
    if (norm != nullptr) {
      const float inverse = Rsqrt(SumLanes(squares) / static_cast<float>(d) + a.norm_epsilon);
      for (int n = 0; n < kPerLane; ++n) {
        const int i = lane + 32 * n;
        if (i >= half) continue;
        lower[n] = lower[n] * inverse * norm[i];
        upper[n] = upper[n] * inverse * norm[half + i];
      }
    }
    for (int n = 0; n < kPerLane; ++n) {
      const int i = lane + 32 * n;
      if (i >= half) continue;
      const float c = a.cos[t * half + i], s = a.sin[t * half + i];
      const float x1 = lower[n], x2 = upper[n];
      lower[n] = fmaf(x1, c, -(x2 * s));
      upper[n] = fmaf(x2, c, x1 * s);
    }
  }
  if (is_query) {
    for (int n = 0; n < kPerLane; ++n) {
      const int i = lane + 32 * n;
      if (i >= half) continue;
      x[i] = lower[n];
      x[half + i] = upper[n];
    }
    return;
  }
  const int slot = a.slot_mapping[t];
  if (slot < 0) return;
  CacheHead(a.cache, !is_value, slot, head - a.q_heads - (is_value ? kv_heads : 0), lane, lower,
            upper);
}

}  // namespace

void RopeAndCache(cudaStream_t stream, const RopeArgs& args) {
  const int64_t heads = args.q_heads + 2 * args.cache.kv_heads;
  if (args.tokens == 0 || heads == 0) return;
  // Not in the grid's y, which has 65535 blocks at most.
  const auto blocks = static_cast<unsigned>((heads + kWarps - 1) / kWarps);  // of a token
  Launch({.grid = dim3(blocks * static_cast<unsigned>(args.tokens)),
          .block = dim3(kWarps * 32),
          .stream = stream},
         &RopeAndCacheKernel, args, blocks);
}

}  // namespace tandem::kernels::cuda
