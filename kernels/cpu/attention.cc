// Paged attention of a tile of rows: (token, query head) pairs of one sequence and one KV head, so
// that each K and V element is read once for all of them. Compiled for the instruction sets that
// Highway knows; attention_x86.cc has the dot products of others.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/attention_scratch.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/target_table.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
#define TANDEM_TILE_NAMESPACE HWY_NAMESPACE
#undef TANDEM_ATTENTION_TILE_INL
#include "kernels/cpu/attention_tile-inl.h"
#undef TANDEM_TILE_NAMESPACE
namespace tandem::kernels::HWY_NAMESPACE {

#include "kernels/cpu/attention_ops-inl.h"

void Bf16Scores(const cpu::PartitionArgs& args) {
  const cpu::FlushDenormals flush(true);
  AllRows<Bf16Ops, true>(args);
}
void Bf16Values(const cpu::PartitionArgs& args) {
  const cpu::FlushDenormals flush(true);
  AllRows<Bf16Ops, false>(args);
}

cpu::PartitionKernels PartitionKernelsOf(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF32:
      return {&AllRows<FloatOps<DType::kF32>, true>, &AllRows<FloatOps<DType::kF32>, false>};
    case KvDType::kF16:
      return {&AllRows<FloatOps<DType::kF16>, true>, &AllRows<FloatOps<DType::kF16>, false>};
    case KvDType::kBF16:
      return {&Bf16Scores, &Bf16Values};
    case KvDType::kI8:
#if HWY_TARGET != HWY_SCALAR
      return {&AllRows<CodeOps<true>, true>, &AllRows<CodeOps<false>, false>};
#else
      break;
#endif
  }
  return {};
}

// n (a multiple of kLanes) values times `inverse` as codes; returns their sum.
HWY_INLINE int32_t StoreCodes(const float* from, size_t n, float inverse, float largest_code,
                              int16_t* to) {
  const F d;
  const hn::RebindToSigned<F> di;
  const hn::Rebind<int16_t, F> half;
  const V scale = hn::Set(d, inverse);
  auto sum = hn::Zero(di);
  for (size_t j = 0; j < n; j += kWidth) {
    const V x = hn::Max(hn::Mul(hn::LoadU(d, from + j), scale), hn::Set(d, -largest_code));
    const auto code = hn::NearestInt(hn::Min(x, hn::Set(d, largest_code)));
    sum = hn::Add(sum, code);
    hn::StoreU(hn::DemoteTo(half, code), half, to + j);
  }
  return hn::GetLane(hn::SumOfLanes(di, sum));
}

HWY_INLINE int32_t LargestBits(const float* from, size_t n) {
  const hn::RebindToSigned<F> di;
  auto most = hn::Zero(di);
  for (size_t j = 0; j < n; j += kWidth) {
    const auto bits = hn::LoadU(di, reinterpret_cast<const int32_t*>(from) + j);
    most = hn::Max(most, hn::And(bits, hn::Set(di, 0x7fffffff)));
  }
  return hn::GetLane(hn::MaxOfLanes(di, most));
}

// q * scale in the form of the cache's dtype.
void PrepareQuery(const float* q, const KvCacheView& cache, float scale, std::byte* to,
                  cpu::CodeTerms& terms) {
  const F d;
  const size_t n = static_cast<size_t>(cache.head_dim);
  const size_t padded = (n + kLanes - 1) / kLanes * kLanes;
  alignas(64) float scaled[KvCacheView::kMaxHeadDim];
  for (size_t i = 0; i < n; ++i) scaled[i] = q[i] * scale;
  for (size_t i = n; i < padded; ++i) scaled[i] = 0;
  switch (cache.dtype) {
    case KvDType::kF32:
    case KvDType::kF16:
      std::memcpy(to, scaled, n * sizeof(float));
      return;
    case KvDType::kBF16:
      for (size_t i = 0; i < padded; i += kWidth) {
        StoreHalves(RoundBf16(hn::Load(d, scaled + i)), reinterpret_cast<uint16_t*>(to) + i);
      }
      return;
    case KvDType::kI8: {
      const CodeScale code = MakeCodeScale(LargestBits(scaled, padded), kQueryCodeMax);
      terms.scale = code.scale;
      terms.sum =
          StoreCodes(scaled, padded, code.inverse, kQueryCodeMax, reinterpret_cast<int16_t*>(to));
      return;
    }
  }
}

// Memory would idle while exponentials are computed: meanwhile this prefetches the first half of
// the next partition's K, a part of it in each of rows * blocks steps.
HWY_INLINE void PrefetchAhead(const cpu::PartitionArgs& a, size_t step) {
  const size_t head_bytes = static_cast<size_t>(a.cache.k_head_bytes());
  const size_t parts = 2 * a.rows;  // of a head's K in a block
  const std::byte* head = a.next[step / parts];
  const size_t begin = step % parts * head_bytes / parts / 64 * 64;
  const size_t end = (step % parts + 1) * head_bytes / parts / 64 * 64;
  for (size_t i = begin; i < end; i += 64) __builtin_prefetch(head + i, 0, 2);
}

// Turns a row's first n scores into what its values are weighted by: exponentials
// relative to their maximum, zeros from n to the next block's end of `positions`.
cpu::RowSum Softmax(const cpu::PartitionArgs& a, size_t row, size_t n, cpu::CodeTerms& terms) {
  const F d;
  std::byte* place = const_cast<std::byte*>(a.scores) + row * cpu::kScoreStride;
  float* HWY_RESTRICT scores = reinterpret_cast<float*>(place);
  const size_t padded = a.blocks * kLanes;
  const size_t used = (n + kLanes - 1) / kLanes * kLanes;
  if (n == 0) {
    std::memset(place, 0, padded * sizeof(float));
    terms = {};
    return {};
  }
  for (size_t j = n; j < padded; ++j) scores[j] = -std::numeric_limits<float>::infinity();
  V tops = hn::LoadU(d, scores);
  for (size_t j = kWidth; j < used; j += kWidth) tops = hn::Max(tops, hn::LoadU(d, scores + j));
  const float max = hn::GetLane(hn::MaxOfLanes(d, tops));
  const V top = hn::Set(d, max);
  V sums[kGroup];
  for (size_t g = 0; g < kGroup; ++g) sums[g] = hn::Zero(d);
  const bool narrow = a.cache.dtype == KvDType::kBF16;
  const bool few_rows = a.rows <= 8;
  for (size_t j = 0; j < padded; j += kLanes) {
    if (few_rows) PrefetchAhead(a, row * a.blocks + j / kLanes);
    for (size_t g = 0; g < kGroup; ++g) {
      V p = Exp(hn::Sub(hn::LoadU(d, scores + j + g * kWidth), top));
      if (narrow) {
        const auto rounded = RoundBf16(p);
        p = hn::BitCast(d, hn::ShiftLeft<16>(rounded));
        StoreHalves(rounded, reinterpret_cast<uint16_t*>(place) + j + g * kWidth);
      } else {
        hn::StoreU(p, d, scores + j + g * kWidth);
      }
      sums[g] = hn::Add(sums[g], p);
    }
  }
  alignas(64) float lanes[kLanes];
  for (size_t g = 0; g < kGroup; ++g) hn::Store(sums[g], d, lanes + g * kWidth);
  if (a.cache.dtype == KvDType::kI8) {
    for (size_t b = 0; b < a.blocks; ++b) {
      const auto* scales = reinterpret_cast<const float*>(a.v[b] + a.cache.v_code_bytes());
      for (size_t g = 0; g < kGroup; ++g) {
        float* p = scores + b * kLanes + g * kWidth;
        hn::StoreU(hn::Mul(hn::LoadU(d, p), hn::LoadU(d, scales + g * kWidth)), d, p);
      }
    }
    // What lies behind the context may be another sequence's NaN.
    for (size_t j = n; j < padded; ++j) scores[j] = 0;
    const CodeScale code = MakeCodeScale(LargestBits(scores, padded), kWeightCodeMax);
    terms.scale = code.scale;
    StoreCodes(scores, padded, code.inverse, kWeightCodeMax, reinterpret_cast<int16_t*>(place));
  }
  return {max, FoldLanes(lanes)};
}

// Adds one row's result of the next partition to its total.
void Combine(const cpu::RowSum& next, const float* HWY_RESTRICT from, size_t n, cpu::RowSum& total,
             float* HWY_RESTRICT to) {
  const F d;
  const float joint = std::max(total.max, next.max);
  const float old_weight = ExpF32(total.max - joint);
  const float new_weight = ExpF32(next.max - joint);
  total.sum = __builtin_fmaf(next.sum, new_weight, total.sum * old_weight);
  total.max = joint;
  const V w_old = hn::Set(d, old_weight);
  const V w_new = hn::Set(d, new_weight);
  for (size_t i = 0; i < n; i += kWidth) {
    const V old = hn::Mul(hn::LoadU(d, to + i), w_old);
    hn::StoreU(hn::MulAdd(hn::LoadU(d, from + i), w_new, old), d, to + i);
  }
}

// A tile at work: prepared queries, and one partition after another.
class TileAttention {
 public:
  TileAttention(const PagedAttentionArgs& a, const cpu::AttentionTile& tile, float* scratch)
      : a_(a),
        tile_(tile),
        layout_(a.cache),
        scratch_(scratch),
        kv_head_(a.head_to_kv[tile.head]),
        table_(a.block_tables + a.token_sequence[tile.token] * a.max_blocks) {}

  void Prepare(const cpu::PartitionKernels& kernels) {
    kernels_ = kernels;
    auto* queries = reinterpret_cast<std::byte*>(scratch_ + layout_.queries);
    auto* terms = reinterpret_cast<cpu::CodeTerms*>(scratch_ + layout_.query_terms);
    for (int64_t r = 0; r < tile_.rows(); ++r) {
      std::byte* to = queries + r * cpu::kQueryStride;
      PrepareQuery(a_.qkv + Token(r) * a_.qkv_stride + Head(r) * a_.head_dim, a_.cache, a_.scale,
                   to, terms[r]);
      if (kernels_.split != nullptr) kernels_.split(to, a_.cache.k_packs() * 8, true);
    }
    args_.rows = static_cast<size_t>(tile_.rows());
    args_.cache = a_.cache;
    args_.queries = queries;
    args_.query_terms = terms;
    args_.scores = reinterpret_cast<std::byte*>(scratch_ + layout_.scores);
    args_.weight_terms = reinterpret_cast<const cpu::CodeTerms*>(scratch_ + layout_.weight_terms);
  }

  // Positions of partition `partition` that row r sees.
  int64_t Seen(int64_t r, int64_t partition) const {
    const int64_t context = a_.positions[Token(r)] + 1;
    return std::clamp<int64_t>(context - partition * cpu::kPartition, 0, cpu::kPartition);
  }

  // values: [rows, stride]; sums: [rows].
  void Partition(int64_t partition, float* values, size_t stride, cpu::RowSum* sums) {
    int64_t seen[cpu::kMaxRows];
    int64_t most = 0;
    for (int64_t r = 0; r < tile_.rows(); ++r) {
      seen[r] = Seen(r, partition);
      most = std::max(most, seen[r]);
    }
    args_.positions = static_cast<size_t>(most);
    args_.blocks = (args_.positions + kLanes - 1) / kLanes;
    const int32_t* table = table_ + partition * cpu::kPartitionBlocks;
    const bool last = partition + 1 >= tile_.partitions;
    for (size_t b = 0; b < args_.blocks; ++b) {
      args_.k[b] = a_.cache.k_head(table[b], kv_head_);
      args_.v[b] = a_.cache.v_head(table[b], kv_head_);
      args_.next[b] = args_.k[b];
      if (!last &&
          (partition + 1) * cpu::kPartitionBlocks + static_cast<int64_t>(b) < a_.max_blocks &&
          table[cpu::kPartitionBlocks + b] >= 0) {
        args_.next[b] = a_.cache.k_head(table[cpu::kPartitionBlocks + b], kv_head_);
      }
    }
    args_.values = values;
    args_.value_stride = stride;
    kernels_.scores(args_);
    auto* terms = reinterpret_cast<cpu::CodeTerms*>(scratch_ + layout_.weight_terms);
    for (size_t r = 0; r < args_.rows; ++r) {
      sums[r] = Softmax(args_, r, static_cast<size_t>(seen[r]), terms[r]);
      if (kernels_.split != nullptr) {
        kernels_.split(args_.scores + r * cpu::kScoreStride, args_.blocks * kLanes * 2, false);
      }
    }
    kernels_.values(args_);
  }

  void Finish(int64_t r, const float* HWY_RESTRICT total, float sum) const {
    float* HWY_RESTRICT out = a_.out + (Token(r) * a_.q_heads + Head(r)) * a_.head_dim;
    for (int64_t i = 0; i < a_.head_dim; ++i) out[i] = total[i] / sum;
  }

  const cpu::ScratchLayout& layout() const { return layout_; }

 private:
  int64_t Token(int64_t r) const { return tile_.token + r / tile_.heads; }
  int64_t Head(int64_t r) const { return tile_.head + r % tile_.heads; }

  const PagedAttentionArgs& a_;
  const cpu::AttentionTile& tile_;
  const cpu::ScratchLayout layout_;
  float* const scratch_;
  const int64_t kv_head_;
  const int32_t* const table_;
  cpu::PartitionKernels kernels_;
  cpu::PartitionArgs args_;
};

void AttendTile(const PagedAttentionArgs& a, const cpu::AttentionTile& tile,
                const cpu::PartitionKernels& kernels, float* scratch) {
  TileAttention attention(a, tile, scratch);
  attention.Prepare(kernels);
  const size_t stride = static_cast<size_t>(a.cache.v_stride());
  float* totals = scratch + attention.layout().totals;
  float* values = scratch + attention.layout().values;
  cpu::RowSum sums[cpu::kMaxRows], next[cpu::kMaxRows];
  attention.Partition(0, totals, stride, sums);
  for (int64_t partition = 1; partition < tile.partitions; ++partition) {
    attention.Partition(partition, values, stride, next);
    for (int64_t r = 0; r < tile.rows(); ++r) {
      if (attention.Seen(r, partition) == 0) continue;
      Combine(next[r], values + r * stride, stride, sums[r], totals + r * stride);
    }
  }
  for (int64_t r = 0; r < tile.rows(); ++r) attention.Finish(r, totals + r * stride, sums[r].sum);
}

void AttendPartition(const PagedAttentionArgs& a, const cpu::AttentionTile& tile,
                     const cpu::PartitionKernels& kernels, int64_t partition, float* partials,
                     float* scratch) {
  TileAttention attention(a, tile, scratch);
  attention.Prepare(kernels);
  const int64_t floats = cpu::PartialFloats(a.cache);
  cpu::RowSum sums[cpu::kMaxRows];
  attention.Partition(partition, partials + 16, static_cast<size_t>(floats), sums);
  for (int64_t r = 0; r < tile.rows(); ++r) {
    partials[r * floats] = sums[r].max;
    partials[r * floats + 1] = sums[r].sum;
  }
}

void CombinePartitions(const PagedAttentionArgs& a, const cpu::AttentionTile& tile,
                       const float* partials, float* scratch) {
  const TileAttention attention(a, tile, scratch);
  const int64_t floats = cpu::PartialFloats(a.cache);
  const size_t stride = static_cast<size_t>(a.cache.v_stride());
  float* total = scratch + attention.layout().totals;
  for (int64_t r = 0; r < tile.rows(); ++r) {
    const float* from = partials + r * floats;
    cpu::RowSum sum = {from[0], from[1]};
    std::memcpy(total, from + 16, stride * sizeof(float));
    for (int64_t partition = 1; partition < tile.partitions && attention.Seen(r, partition) > 0;
         ++partition) {
      from += tile.rows() * floats;
      Combine({from[0], from[1]}, from + 16, stride, sum, total);
    }
    attention.Finish(r, total, sum.sum);
  }
}

cpu::AttentionKernels AttentionKernelsHere() {
  cpu::AttentionKernels kernels = {.attend_tile = &AttendTile,
                                   .attend_partition = &AttendPartition,
                                   .combine_partitions = &CombinePartitions};
  for (KvDType dtype : {KvDType::kF32, KvDType::kF16, KvDType::kBF16, KvDType::kI8}) {
    kernels.partitions[static_cast<int>(dtype)] = PartitionKernelsOf(dtype);
  }
  return kernels;
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(AttentionKernelsHere);

namespace cpu {

AttentionKernels AttentionKernelsOf(const InstructionSet& set) {
  AttentionKernels kernels = TANDEM_FOR_TARGET(AttentionKernelsHere, set.target)();
  UseDotInstructions(set.dot, kernels.partitions);
  return kernels;
}

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
