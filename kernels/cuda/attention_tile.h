// A tile of positions of one KV head in shared memory, in the form that the matrix units take:
// words of two 16-bit elements (pairs of dimensions of a key, pairs of positions of a value), so
// that a word of a fragment is a word of the tile.
//
// A BF16 cache is stored as such words, and copied as it is into one of two buffers. FP16 and
// INT8 are copied as stored and then turned into words of FP16, which holds their elements
// and codes exactly. Either way the next tile is copied while the current one is used.
#pragma once

#include <cuda_async.h>
#include <cuda_device.h>

#include "kernels/base/dtype.h"
#include "kernels/cuda/attention.h"

namespace tandem::kernels::cuda {

template <KvDType kType, int kDim, int kPositions, int kThreads>
class KvTile {
 public:
  static constexpr DType kElement = kType == KvDType::kBF16 ? DType::kBF16 : DType::kF16;
  static constexpr bool kScaled = kType == KvDType::kI8;
  // Words between pairs: eight more than a multiple of 32 or of 16, so that the eight columns
  // and four pairs that a warp reads at once lie in different banks.
  static constexpr int kKeyStride = kPositions + 8;
  static constexpr int kValueStride = kDim + 8;

 private:
  static constexpr int kBlock = static_cast<int>(KvCacheView::kBlock);
  static constexpr int kBlocks = kPositions / kBlock;
  static constexpr bool kDirect = kType == KvDType::kBF16;
  static constexpr int kPack = kType == KvDType::kI8 ? 4 : kDirect ? 2 : 1;
  static constexpr int kPackBytes = kType == KvDType::kF16 ? 2 : 4;
  static constexpr int kKeyWords = kDim / 2 * kKeyStride;
  static constexpr int kWords = kKeyWords + kPositions / 2 * kValueStride;
  // As stored: [packs of dimensions, positions], [packs of positions, dimensions], scales.
  static constexpr int kStoredKeyBytes = kDim / kPack * kPositions * kPackBytes;
  static constexpr int kStoredBytes = 2 * kStoredKeyBytes + (kScaled ? 8 * kPositions : 0);
  static constexpr int kWideBytes = 4 * kWords + (kScaled ? 8 * kPositions : 0);

 public:
  static constexpr int kBytes = kDirect ? 2 * kWideBytes : kWideBytes + kStoredBytes;
  static_assert(kPositions % kBlock == 0 && kDim % 16 == 0 && kBytes <= 48 << 10);

  // memory: kBytes of the block's, 16-byte aligned.
  __device__ explicit KvTile(void* memory) : memory_(static_cast<char*>(memory)) {}

  // [kDim / 2, kKeyStride] and [kPositions / 2, kValueStride].
  __device__ const unsigned* keys() const { return reinterpret_cast<const unsigned*>(current_); }
  __device__ const unsigned* values() const { return keys() + kKeyWords; }
  // [kPositions], of INT8: value = scale * element. Zero for values behind the context.
  __device__ const float* key_scales() const {
    return reinterpret_cast<const float*>(keys() + kWords);
  }
  __device__ const float* value_scales() const { return key_scales() + kPositions; }

  // Starts to copy the tile from `begin`, a multiple of kPositions, of a context of `length`
  // positions, into the buffer that is not current. Blocks of the table behind the context are
  // not looked up.
  __device__ void Start(const KvCacheView& cache, int kv_head, const int32_t* table, int begin,
                        int length) {
    char* const keys = kDirect ? Other() : memory_ + kWideBytes;
    char* const values = keys + (kDirect ? 4 * kKeyWords : kStoredKeyBytes);
    constexpr int kKeyRowBytes = (kDirect ? kKeyStride : kPositions) * kPackBytes;
    constexpr int kValueRowBytes = (kDirect ? kValueStride : kDim) * kPackBytes;
    // A block's keys are rows of its 16 positions, beside the other blocks'; its values rows of
    // dimensions, below the other blocks'.
    constexpr int kKeyBytes = kBlock * kPackBytes;
    const int key_packs = static_cast<int>(cache.k_packs());
    const int value_bytes = static_cast<int>(cache.v_stride()) * kPackBytes;
#pragma unroll 1
    for (int b = 0; b < kBlocks; ++b) {
      const bool there = begin + b * kBlock < length;
      const int64_t block = there ? table[begin / kBlock + b] : 0;
      const char* const k = static_cast<const char*>(cache.k) + block * cache.k_block_bytes() +
                            kv_head * cache.k_head_bytes();
      const char* const v = static_cast<const char*>(cache.v) + block * cache.v_block_bytes() +
                            kv_head * cache.v_head_bytes();
      EachVector<kDim / kPack, kKeyBytes>([&](int row, int byte) {
        Put(keys + row * kKeyRowBytes + b * kKeyBytes + byte, k + row * kKeyBytes + byte,
            there && row < key_packs);
      });
      EachVector<kBlock / kPack, kDim * kPackBytes>([&](int row, int byte) {
        Put(values + (b * (kBlock / kPack) + row) * kValueRowBytes + byte,
            v + row * value_bytes + byte, there && byte < value_bytes);
      });
      if constexpr (kScaled) {
        constexpr int kScaleBytes = kBlock * 4;
        EachVector<2, kScaleBytes>([&](int row, int byte) {
          Put(keys + 2 * kStoredKeyBytes + row * kPositions * 4 + b * kScaleBytes + byte,
              (row == 0 ? k + cache.k_code_bytes() : v + cache.v_code_bytes()) + byte, there);
        });
      }
    }
  }

  // Waits for the tile that Start was last called for, of which `count` positions (or more
  // than there are) belong to the context, and makes it current: values behind the context,
  // which may be anything, become zeros. All threads call it; when it returns, no thread reads
  // the previous tile any more.
  __device__ void Finish(int count) {
    WaitCopies();
    if constexpr (kDirect) {
      current_ = Other();
      if (count < kPositions) {
        auto* const words = reinterpret_cast<unsigned*>(current_) + kKeyWords;
        // Each thread its own vectors, which have arrived.
        for (int b = 0; b < kBlocks; ++b) {
          EachVector<kBlock / 2, kDim * 4>([&](int row, int byte) {
            const int pair = b * (kBlock / 2) + row;
            const unsigned mask = Known(2 * pair, count);
            for (int i = 0; i < 4; ++i) words[pair * kValueStride + byte / 4 + i] &= mask;
          });
        }
      }
      __syncthreads();
    } else {
      __syncthreads();
      current_ = memory_;
      Spread(count);
      __syncthreads();
    }
  }

 private:
  __device__ char* Other() const { return current_ == memory_ ? memory_ + kWideBytes : memory_; }

  // Calls f(row, byte) for this thread's part of a block's vectors of 16 bytes: neighbouring
  // threads have neighbouring vectors.
  template <int kRows, int kRowBytes, typename F>
  __device__ static void EachVector(const F& f) {
    constexpr int kRowVectors = kRowBytes / 16, kVectors = kRows * kRowVectors;
    static_assert(kRowBytes % 16 == 0);
#pragma unroll 4
    for (int base = 0; base < kVectors; base += kThreads) {
      const int vector = base + static_cast<int>(threadIdx.x);
      if (vector < kVectors) f(vector / kRowVectors, vector % kRowVectors * 16);
    }
  }

  // 16 bytes; zeros where there is no source.
  __device__ static void Put(char* to, const char* from, bool there) {
    if (there) {
      StartCopy(to, from);
    } else {
      *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    }
  }

  // Of a pair of positions, the bits of those before `count`.
  __device__ static unsigned Known(int position, int count) {
    return position + 1 < count ? 0xffffffffu : position < count ? 0xffffu : 0u;
  }

  // From the elements as stored to words of pairs.
  __device__ void Spread(int count) {
    auto* const words = reinterpret_cast<unsigned*>(memory_);
    const auto* const stored = memory_ + kWideBytes;
    // Eight words at a time: four of each of two pairs of codes, or eight of a pair of rows.
    SpreadRows<kDim / 2, kPositions, true>(stored, words, kKeyStride, count);
    SpreadRows<kPositions / 2, kDim, false>(stored + kStoredKeyBytes, words + kKeyWords,
                                            kValueStride, count);
    if constexpr (kScaled) {
      const auto* const scales = reinterpret_cast<const float*>(stored + 2 * kStoredKeyBytes);
      auto* const to = reinterpret_cast<float*>(words + kWords);
      for (int i = static_cast<int>(threadIdx.x); i < kPositions; i += kThreads) {
        to[i] = i < count ? scales[i] : 0.0f;
        to[kPositions + i] = i < count ? scales[kPositions + i] : 0.0f;
      }
    }
  }

  // kPairs rows of kColumns words; values from position `count` on become zeros.
  template <int kPairs, int kColumns, bool kKeys>
  __device__ static void SpreadRows(const char* stored, unsigned* words, int stride, int count) {
    constexpr int kSteps = kPairs * kColumns / 8;
    for (int step = static_cast<int>(threadIdx.x); step < kSteps; step += kThreads) {
      unsigned out[8];
      if constexpr (kScaled) {
        const int row = step / (kColumns / 4), column = step % (kColumns / 4) * 4;
        const uint4 codes = *reinterpret_cast<const uint4*>(stored + (row * kColumns + column) * 4);
        const unsigned in[4] = {codes.x, codes.y, codes.z, codes.w};
        for (int i = 0; i < 4; ++i) {
          // Codes plus 128, as those of keys are stored.
          const unsigned bytes = kKeys ? in[i] : in[i] ^ 0x80808080u;
          out[i] = Codes(__byte_perm(bytes, 0x64646464u, 0x4140u));
          out[4 + i] = Codes(__byte_perm(bytes, 0x64646464u, 0x4342u));
        }
        // Any code is finite.
        Write(words + 2 * row * stride + column, out, 0xffffffffu);
        Write(words + (2 * row + 1) * stride + column, out + 4, 0xffffffffu);
      } else {
        const int row = step / (kColumns / 8), column = step % (kColumns / 8) * 8;
        const auto* const upper =
            reinterpret_cast<const uint4*>(stored + (2 * row * kColumns + column) * 2);
        const uint4 low = upper[0], high = upper[kColumns / 8];
        const unsigned a[4] = {low.x, low.y, low.z, low.w};
        const unsigned b[4] = {high.x, high.y, high.z, high.w};
        for (int i = 0; i < 4; ++i) {
          out[2 * i] = __byte_perm(a[i], b[i], 0x5410u);
          out[2 * i + 1] = __byte_perm(a[i], b[i], 0x7632u);
        }
        const unsigned mask = kKeys ? 0xffffffffu : Known(2 * row, count);
        Write(words + row * stride + column, out, mask);
        Write(words + row * stride + column + 4, out + 4, mask);
      }
    }
  }

  __device__ static void Write(unsigned* to, const unsigned* words, unsigned mask) {
    *reinterpret_cast<uint4*>(to) =
        make_uint4(words[0] & mask, words[1] & mask, words[2] & mask, words[3] & mask);
  }

  // Two elements 1024 + (code + 128) of FP16, whose last bit is worth 1 there, to codes.
  __device__ static unsigned Codes(unsigned pair) {
    const __half2 shifted = *reinterpret_cast<const __half2*>(&pair);
    const __half2 codes = __hsub2(shifted, __half2(__half2_raw{0x6480, 0x6480}));  // 1152
    return *reinterpret_cast<const unsigned*>(&codes);
  }

  char* const memory_;
  char* current_ = memory_;
};

}  // namespace tandem::kernels::cuda
