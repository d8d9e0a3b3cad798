// Paged attention of a tile of rows: (token, query head) pairs of one sequence
// and one KV head, so that each K and V element is read once for all of them.
// Here are the instruction sets that Highway knows; attention_x86.cc has those
// with dot products.
#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/base/check.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/target_table.h"
#include "kernels/cpu/vector_math-inl.h"

#ifndef TANDEM_ATTENTION_SCRATCH
#define TANDEM_ATTENTION_SCRATCH
namespace tandem::kernels::cpu {
namespace {

// A thread's scratch, in floats from its start.
struct ScratchLayout {
  explicit ScratchLayout(const KvCacheView& cache) {
    const size_t stride = static_cast<size_t>(cache.v_stride());
    size_t offset = 0;
    const auto place = [&](size_t bytes) {
      const size_t at = offset;
      offset += (bytes + 63) / 64 * 16;
      return at;
    };
    queries = place(kMaxRows * kQueryStride);
    scores = place(kMaxRows * kScoreStride);
    values = place(kMaxRows * stride * sizeof(float));
    totals = place(kMaxRows * stride * sizeof(float));
    query_terms = place(kMaxRows * sizeof(CodeTerms));
    weight_terms = place(kMaxRows * sizeof(CodeTerms));
    floats = offset;
  }
  size_t queries, scores, values, totals, query_terms, weight_terms, floats;
};

struct RowSum {
  float max = 0;
  float sum = 0;
};

}  // namespace
}  // namespace tandem::kernels::cpu
#endif

HWY_BEFORE_NAMESPACE();
#define TANDEM_TILE_NAMESPACE HWY_NAMESPACE
#undef TANDEM_ATTENTION_TILE_INL
#include "kernels/cpu/attention_tile-inl.h"
#undef TANDEM_TILE_NAMESPACE
namespace tandem::kernels::HWY_NAMESPACE {

// With 32 registers of 16 lanes, or 16 of 8.
constexpr bool kWide = kWidth == kLanes;

// fp32 and fp16: fused multiply-adds, elements one by one.
template <DType dtype>
struct FloatOps {
  static constexpr size_t kPack = 1;
  static constexpr size_t kPackedBytes = kLanes * sizeof(typename Storage<dtype>::T);
  static constexpr size_t kScalarBytes = sizeof(float);
  static constexpr bool kIntegers = false;
  static constexpr size_t kRows = kWide ? 8 : 4;
  static constexpr size_t kVectors = kWide ? 2 : 1;
  static constexpr size_t kFewVectors = kWide ? 4 : 1;
  struct Packed {
    V v[kGroup];
  };
  using Acc = Packed;
  using Scalar = V;

  static HWY_INLINE Acc Zero() {
    Acc acc;
    for (size_t i = 0; i < kGroup; ++i) acc.v[i] = hn::Zero(F());
    return acc;
  }
  static HWY_INLINE Packed Load(const std::byte* from) {
    Packed packed;
    const auto* p = reinterpret_cast<const typename Storage<dtype>::T*>(from);
    for (size_t i = 0; i < kGroup; ++i) packed.v[i] = LoadWide<dtype>(p + i * kWidth);
    return packed;
  }
  static HWY_INLINE Scalar Broadcast(const std::byte* from) {
    return hn::Set(F(), *reinterpret_cast<const float*>(from));
  }
  static HWY_INLINE void MulAdd(Scalar x, const Packed& y, Acc& sum) {
    for (size_t i = 0; i < kGroup; ++i) sum.v[i] = hn::MulAdd(x, y.v[i], sum.v[i]);
  }
  static HWY_INLINE void Finish(const Acc& sum, const cpu::CodeTerms&, const float*, float* to) {
    for (size_t i = 0; i < kGroup; ++i) hn::StoreU(sum.v[i], F(), to + i * kWidth);
  }
};

// bf16: what the dot-product instruction does, in two steps; denormals must be
// flushed by the processor meanwhile.
struct Bf16Ops {
  static constexpr size_t kPack = 2;
  static constexpr size_t kPackedBytes = 64;
  static constexpr size_t kScalarBytes = 4;
  static constexpr bool kIntegers = false;
  static constexpr size_t kRows = kWide ? 8 : 4;
  static constexpr size_t kVectors = kWide ? 2 : 1;
  static constexpr size_t kFewVectors = kWide ? 4 : 1;
  using U32 = hn::RebindToUnsigned<F>;
  struct Packed {
    V even[kGroup], odd[kGroup];
  };
  struct Scalar {
    V even, odd;
  };
  struct Acc {
    V v[kGroup];
  };

  static HWY_INLINE Acc Zero() {
    Acc acc;
    for (size_t i = 0; i < kGroup; ++i) acc.v[i] = hn::Zero(F());
    return acc;
  }
  static HWY_INLINE V Even(hn::Vec<U32> pairs) {
    return hn::BitCast(F(), hn::ShiftLeft<16>(pairs));
  }
  static HWY_INLINE V Odd(hn::Vec<U32> pairs) {
    return hn::BitCast(F(), hn::And(pairs, hn::Set(U32(), 0xffff0000u)));
  }
  static HWY_INLINE Packed Load(const std::byte* from) {
    Packed packed;
    for (size_t i = 0; i < kGroup; ++i) {
      const auto pairs = hn::LoadU(U32(), reinterpret_cast<const uint32_t*>(from) + i * kWidth);
      packed.even[i] = Even(pairs);
      packed.odd[i] = Odd(pairs);
    }
    return packed;
  }
  static HWY_INLINE Packed LoadFirst(const std::byte* from) {
    Packed packed = Load(from);
    for (size_t i = 0; i < kGroup; ++i) packed.odd[i] = hn::Zero(F());
    return packed;
  }
  static HWY_INLINE Scalar Broadcast(const std::byte* from) {
    const auto pairs = hn::Set(U32(), *reinterpret_cast<const uint32_t*>(from));
    return {Even(pairs), Odd(pairs)};
  }
  static HWY_INLINE void MulAdd(const Scalar& x, const Packed& y, Acc& sum) {
    for (size_t i = 0; i < kGroup; ++i) {
      sum.v[i] = hn::MulAdd(x.even, y.even[i], hn::MulAdd(x.odd, y.odd[i], sum.v[i]));
    }
  }
  static HWY_INLINE void Finish(const Acc& sum, const cpu::CodeTerms&, const float*, float* to) {
    for (size_t i = 0; i < kGroup; ++i) hn::StoreU(sum.v[i], F(), to + i * kWidth);
  }
};

#if HWY_TARGET != HWY_SCALAR  // which is never chosen and has no such vectors
// int8: codes widened to 16 bits, pairs of products added in 32.
template <bool kKeys>
struct CodeOps {
  static constexpr size_t kPack = 4;
  static constexpr size_t kPackedBytes = 64;
  static constexpr size_t kScalarBytes = 8;
  static constexpr bool kIntegers = true;
  static constexpr size_t kRows = kWide ? 4 : 2;
  static constexpr size_t kVectors = kWide ? 2 : 1;
  static constexpr size_t kFewVectors = kVectors;
  using I32 = hn::RebindToSigned<F>;
  using I16 = hn::Repartition<int16_t, I32>;
  using I64 = hn::Repartition<int64_t, I32>;
  using Byte = std::conditional_t<kKeys, uint8_t, int8_t>;
  static constexpr size_t kParts = 2 * kGroup;  // vectors of 16-bit codes
  struct Packed {
    hn::Vec<I16> v[kParts];
  };
  using Scalar = hn::Vec<I16>;
  // The two halves of each lane's pack side by side, once RearrangeToOddPlusEven has added both:
  // NEON's widening multiply fills one from each half of its operands, x86 leaves the second alone.
  struct Acc {
    hn::Vec<I32> v[kParts], upper[kParts];
  };

  static HWY_INLINE Acc Zero() {
    Acc acc;
    for (size_t i = 0; i < kParts; ++i) acc.v[i] = acc.upper[i] = hn::Zero(I32());
    return acc;
  }
  static HWY_INLINE Packed Load(const std::byte* from) {
    Packed packed;
    const hn::Rebind<Byte, I16> narrow;
    for (size_t i = 0; i < kParts; ++i) {
      const auto* p = reinterpret_cast<const Byte*>(from) + i * 2 * kWidth;
      packed.v[i] = hn::PromoteTo(I16(), hn::LoadU(narrow, p));
    }
    return packed;
  }
  static HWY_INLINE Scalar Broadcast(const std::byte* from) {
    return hn::BitCast(I16(), hn::Set(I64(), *reinterpret_cast<const int64_t*>(from)));
  }
  static HWY_INLINE void MulAdd(Scalar x, const Packed& y, Acc& sum) {
    for (size_t i = 0; i < kParts; ++i) {
      sum.v[i] = hn::ReorderWidenMulAccumulate(I32(), x, y.v[i], sum.v[i], sum.upper[i]);
    }
  }
  static HWY_INLINE void Finish(const Acc& sum, const cpu::CodeTerms& row,
                                const float* HWY_RESTRICT lane_scales, float* HWY_RESTRICT to) {
    alignas(64) int32_t halves[2 * kLanes];
    for (size_t i = 0; i < kParts; ++i) {
      hn::Store(hn::RearrangeToOddPlusEven(sum.v[i], sum.upper[i]), I32(), halves + i * kWidth);
    }
    // K's codes are stored plus 128: without that the sum fits 32 bits, with it only modulo 2^32.
    const uint32_t offset = kKeys ? 128 * static_cast<uint32_t>(row.sum) : 0;
    for (size_t i = 0; i < kLanes; ++i) {
      const uint32_t sum =
          static_cast<uint32_t>(halves[2 * i]) + static_cast<uint32_t>(halves[2 * i + 1]) - offset;
      const float dot = static_cast<float>(static_cast<int32_t>(sum));
      to[i] = dot * (kKeys ? row.scale * lane_scales[i] : row.scale);
    }
  }
};

#endif

void Bf16Scores(const cpu::CutArgs& args) {
  const cpu::FlushDenormals flush(true);
  AllRows<Bf16Ops, true>(args);
}
void Bf16Values(const cpu::CutArgs& args) {
  const cpu::FlushDenormals flush(true);
  AllRows<Bf16Ops, false>(args);
}

cpu::CutKernels CutKernelsOf(KvDType dtype) {
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

// Rounded to nearest even as FloatToBf16 does, in the low half of each lane.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<F>> RoundBf16(V x) {
  const hn::RebindToUnsigned<F> du;
  const auto bits = hn::BitCast(du, x);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto odd = hn::And(upper, hn::Set(du, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))));
  const auto is_nan = hn::RebindMask(du, hn::Ne(x, x));
  return hn::IfThenElse(is_nan, hn::Or(upper, hn::Set(du, 0x40u)), rounded);
}

HWY_INLINE void StoreBf16(V x, uint16_t* to) {
  const hn::Rebind<uint16_t, F> half;
  // The value fits 16 bits: saturation never happens.
  hn::StoreU(hn::DemoteTo(half, hn::BitCast(hn::RebindToSigned<F>(), RoundBf16(x))), half, to);
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
        StoreBf16(hn::Load(d, scaled + i), reinterpret_cast<uint16_t*>(to) + i);
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

// Memory would idle while exponentials are computed: the first half of the next
// cut's K is fetched meanwhile, a piece in each of rows * blocks steps.
HWY_INLINE void PrefetchAhead(const cpu::CutArgs& a, size_t step) {
  const size_t run_bytes = static_cast<size_t>(a.cache.k_run_bytes());
  const size_t pieces = 2 * a.rows;  // of a run
  const std::byte* run = a.next[step / pieces];
  const size_t begin = step % pieces * run_bytes / pieces / 64 * 64;
  const size_t end = (step % pieces + 1) * run_bytes / pieces / 64 * 64;
  for (size_t i = begin; i < end; i += 64) __builtin_prefetch(run + i, 0, 2);
}

// Turns a row's first n scores into what its values are weighted by: exponentials
// relative to their maximum, zeros from n to the next block's end of `positions`.
cpu::RowSum Softmax(const cpu::CutArgs& a, size_t row, size_t n, cpu::CodeTerms& terms) {
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
  const hn::Rebind<uint16_t, F> half;
  const bool narrow = a.cache.dtype == KvDType::kBF16;
  const bool few_rows = a.rows <= 8;
  for (size_t j = 0; j < padded; j += kLanes) {
    if (few_rows) PrefetchAhead(a, row * a.blocks + j / kLanes);
    for (size_t g = 0; g < kGroup; ++g) {
      V p = Exp(hn::Sub(hn::LoadU(d, scores + j + g * kWidth), top));
      if (narrow) {
        const auto rounded = RoundBf16(p);
        p = hn::BitCast(d, hn::ShiftLeft<16>(rounded));
        hn::StoreU(hn::DemoteTo(half, hn::BitCast(hn::RebindToSigned<F>(), rounded)), half,
                   reinterpret_cast<uint16_t*>(place) + j + g * kWidth);
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

// One row's result of the next cut into its total.
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

// A tile at work: prepared queries, and one cut after another.
class TileRun {
 public:
  TileRun(const PagedAttentionArgs& a, const cpu::AttentionTile& tile, float* scratch)
      : a_(a),
        tile_(tile),
        layout_(a.cache),
        scratch_(scratch),
        kv_head_(a.head_to_kv[tile.head]),
        table_(a.block_tables + a.token_sequence[tile.token] * a.max_blocks) {}

  void Prepare(const cpu::CutKernels& kernels) {
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

  // Positions of cut `cut` that row r sees.
  int64_t Seen(int64_t r, int64_t cut) const {
    const int64_t context = a_.positions[Token(r)] + 1;
    return std::clamp<int64_t>(context - cut * cpu::kCut, 0, cpu::kCut);
  }

  // values: [rows, stride]; sums: [rows].
  void Cut(int64_t cut, float* values, size_t stride, cpu::RowSum* sums) {
    int64_t seen[cpu::kMaxRows];
    int64_t most = 0;
    for (int64_t r = 0; r < tile_.rows(); ++r) {
      seen[r] = Seen(r, cut);
      most = std::max(most, seen[r]);
    }
    args_.positions = static_cast<size_t>(most);
    args_.blocks = (args_.positions + kLanes - 1) / kLanes;
    const int32_t* table = table_ + cut * cpu::kCutBlocks;
    const bool last = cut + 1 >= tile_.cuts;
    for (size_t b = 0; b < args_.blocks; ++b) {
      args_.k[b] = a_.cache.k_run(table[b], kv_head_);
      args_.v[b] = a_.cache.v_run(table[b], kv_head_);
      args_.next[b] = args_.k[b];
      if (!last && (cut + 1) * cpu::kCutBlocks + static_cast<int64_t>(b) < a_.max_blocks &&
          table[cpu::kCutBlocks + b] >= 0) {
        args_.next[b] = a_.cache.k_run(table[cpu::kCutBlocks + b], kv_head_);
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
  cpu::CutKernels kernels_;
  cpu::CutArgs args_;
};

void AttendTile(const PagedAttentionArgs& a, const cpu::AttentionTile& tile,
                const cpu::CutKernels& kernels, float* scratch) {
  TileRun run(a, tile, scratch);
  run.Prepare(kernels);
  const size_t stride = static_cast<size_t>(a.cache.v_stride());
  float* totals = scratch + run.layout().totals;
  float* values = scratch + run.layout().values;
  cpu::RowSum sums[cpu::kMaxRows], next[cpu::kMaxRows];
  run.Cut(0, totals, stride, sums);
  for (int64_t cut = 1; cut < tile.cuts; ++cut) {
    run.Cut(cut, values, stride, next);
    for (int64_t r = 0; r < tile.rows(); ++r) {
      if (run.Seen(r, cut) == 0) continue;
      Combine(next[r], values + r * stride, stride, sums[r], totals + r * stride);
    }
  }
  for (int64_t r = 0; r < tile.rows(); ++r) run.Finish(r, totals + r * stride, sums[r].sum);
}

void AttendCut(const PagedAttentionArgs& a, const cpu::AttentionTile& tile,
               const cpu::CutKernels& kernels, int64_t cut, float* partials, float* scratch) {
  TileRun run(a, tile, scratch);
  run.Prepare(kernels);
  const int64_t floats = cpu::PartialFloats(a.cache);
  cpu::RowSum sums[cpu::kMaxRows];
  run.Cut(cut, partials + 16, static_cast<size_t>(floats), sums);
  for (int64_t r = 0; r < tile.rows(); ++r) {
    partials[r * floats] = sums[r].max;
    partials[r * floats + 1] = sums[r].sum;
  }
}

void CombineCuts(const PagedAttentionArgs& a, const cpu::AttentionTile& tile, const float* partials,
                 float* scratch) {
  const TileRun run(a, tile, scratch);
  const int64_t floats = cpu::PartialFloats(a.cache);
  const size_t stride = static_cast<size_t>(a.cache.v_stride());
  float* total = scratch + run.layout().totals;
  for (int64_t r = 0; r < tile.rows(); ++r) {
    const float* from = partials + r * floats;
    cpu::RowSum sum = {from[0], from[1]};
    std::memcpy(total, from + 16, stride * sizeof(float));
    for (int64_t cut = 1; cut < tile.cuts && run.Seen(r, cut) > 0; ++cut) {
      from += tile.rows() * floats;
      Combine({from[0], from[1]}, from + 16, stride, sum, total);
    }
    run.Finish(r, total, sum.sum);
  }
}

cpu::AttentionKernels AttentionKernelsHere() {
  cpu::AttentionKernels kernels = {
      .attend_tile = &AttendTile, .attend_cut = &AttendCut, .combine_cuts = &CombineCuts};
  for (KvDType dtype : {KvDType::kF32, KvDType::kF16, KvDType::kBF16, KvDType::kI8}) {
    kernels.cuts[static_cast<int>(dtype)] = CutKernelsOf(dtype);
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
  UseDotInstructions(set.dot, kernels.cuts);
  return kernels;
}

size_t AttentionScratchFloats(const KvCacheView& cache) { return ScratchLayout(cache).floats; }

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
