// The loops of both dot products of attention, for the instruction set that Ops wraps. Compiled
// once for each target; include it inside the target's attributes and namespace,
// TANDEM_TILE_NAMESPACE.
//
// Ops has: Packed, 16 lanes of packs; Scalar, one row's pack for all lanes; Acc,
// 16 lanes of sums; kPack, kPackedBytes, kScalarBytes; kIntegers; kRows, rows at a
// time; kVectors, groups of 16 lanes at a time with kRows, and kFewVectors with
// fewer; and
//   Acc Zero();
//   Packed Load(const std::byte* from);
//   Packed LoadFirst(const std::byte* from);  // only each pack's first element
//   Scalar Broadcast(const std::byte* from);
//   void MulAdd(Scalar x, const Packed& y, Acc& sum);
//   void Finish(const Acc& sum, const CodeTerms& row, const float* lane_scales, float* to);

namespace tandem::kernels::TANDEM_TILE_NAMESPACE {

// sums[r][g] += scalars of row r * packs of group g, `steps` of them in order.
template <class Ops, size_t kRows, size_t kGroups, size_t kRowStride, bool kPrefetch>
HWY_INLINE void MulAddSteps(const std::byte* HWY_RESTRICT scalars, size_t steps,
                            const std::byte* const (&groups)[kGroups], size_t step_bytes,
                            const std::byte* const (&ahead)[kGroups],
                            typename Ops::Acc (&sums)[kRows][kGroups]) {
  for (size_t s = 0; s < steps; ++s) {
    typename Ops::Packed packed[kGroups];
    for (size_t g = 0; g < kGroups; ++g) {
      packed[g] = Ops::Load(groups[g] + s * step_bytes);
      if constexpr (kPrefetch) __builtin_prefetch(ahead[g] + s * step_bytes, 0, 2);
    }
    for (size_t r = 0; r < kRows; ++r) {
      const auto x = Ops::Broadcast(scalars + r * kRowStride + s * Ops::kScalarBytes);
      for (size_t g = 0; g < kGroups; ++g) Ops::MulAdd(x, packed[g], sums[r][g]);
    }
  }
}

template <class Ops, size_t kRows, size_t kGroups, bool kPrefetch>
HWY_INLINE void ScoreBlocks(const cpu::PartitionArgs& a, size_t row, size_t block) {
  typename Ops::Acc sums[kRows][kGroups];
  const std::byte* groups[kGroups];
  const std::byte* ahead[kGroups];
  for (size_t g = 0; g < kGroups; ++g) {
    groups[g] = a.k[block + g];
    ahead[g] = a.v[block + g];
    for (size_t r = 0; r < kRows; ++r) sums[r][g] = Ops::Zero();
  }
  if constexpr (kPrefetch && Ops::kIntegers) {  // scales lie behind the codes
    for (size_t g = 0; g < kGroups; ++g) {
      __builtin_prefetch(groups[g] + a.cache.k_code_bytes(), 0, 3);
      __builtin_prefetch(ahead[g] + a.cache.v_code_bytes(), 0, 2);
    }
  }
  MulAddSteps<Ops, kRows, kGroups, cpu::kQueryStride, kPrefetch>(
      a.queries + row * cpu::kQueryStride, static_cast<size_t>(a.cache.k_packs()), groups,
      Ops::kPackedBytes, ahead, sums);
  for (size_t r = 0; r < kRows; ++r) {
    float* to = reinterpret_cast<float*>(a.scores + (row + r) * cpu::kScoreStride);
    for (size_t g = 0; g < kGroups; ++g) {
      Ops::Finish(sums[r][g], a.query_terms[row + r],
                  reinterpret_cast<const float*>(groups[g] + a.cache.k_code_bytes()),
                  to + (block + g) * 16);
    }
  }
}

template <class Ops, size_t kRows, bool kPrefetch>
HWY_INLINE void ScoreRows(const cpu::PartitionArgs& a, size_t row) {
  // With few rows memory is the limit, and it delivers one stream faster than several.
  constexpr size_t kGroups = kRows >= 8 ? Ops::kVectors : 1;
  size_t block = 0;
  for (; block + kGroups <= a.blocks; block += kGroups) {
    ScoreBlocks<Ops, kRows, kGroups, kPrefetch>(a, row, block);
  }
  for (; block < a.blocks; ++block) ScoreBlocks<Ops, kRows, 1, kPrefetch>(a, row, block);
}

template <class Ops, size_t kRows, size_t kGroups, bool kPrefetch>
HWY_INLINE void ValueLanes(const cpu::PartitionArgs& a, size_t row, size_t lane) {
  typename Ops::Acc sums[kRows][kGroups];
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t g = 0; g < kGroups; ++g) sums[r][g] = Ops::Zero();
  }
  constexpr size_t kPack = Ops::kPack;
  const size_t step_bytes = static_cast<size_t>(a.cache.v_stride()) / 16 * Ops::kPackedBytes;
  const std::byte* scalars = a.scores + row * cpu::kScoreStride;
  const std::byte* groups[kGroups];
  const std::byte* ahead[kGroups];
  for (size_t block = 0; block < a.blocks; ++block) {
    for (size_t g = 0; g < kGroups; ++g) {
      groups[g] = a.v[block] + (lane / 16 + g) * Ops::kPackedBytes;
      ahead[g] = a.next[block] + (lane / 16 + g) * Ops::kPackedBytes;
    }
    if constexpr (kPrefetch && Ops::kIntegers) {
      __builtin_prefetch(a.next[block] + a.cache.k_code_bytes(), 0, 2);
    }
    // Positions behind the context may still hold another sequence's elements, which may be NaN
    // (integers cannot).
    const size_t here = HWY_MIN(size_t{16}, a.positions - block * 16);
    const size_t steps = Ops::kIntegers ? (here + kPack - 1) / kPack : here / kPack;
    MulAddSteps<Ops, kRows, kGroups, cpu::kScoreStride, kPrefetch>(
        scalars + block * (16 / kPack) * Ops::kScalarBytes, steps, groups, step_bytes, ahead, sums);
    if constexpr (kPack > 1 && !Ops::kIntegers) {
      if (here % kPack == 0) continue;
      const size_t at = block * (16 / kPack) + steps;
      for (size_t g = 0; g < kGroups; ++g) {
        const auto packed = Ops::LoadFirst(groups[g] + steps * step_bytes);
        for (size_t r = 0; r < kRows; ++r) {
          const auto x = Ops::Broadcast(scalars + r * cpu::kScoreStride + at * Ops::kScalarBytes);
          Ops::MulAdd(x, packed, sums[r][g]);
        }
      }
    }
  }
  for (size_t r = 0; r < kRows; ++r) {
    float* to = a.values + (row + r) * a.value_stride + lane;
    for (size_t g = 0; g < kGroups; ++g) {
      Ops::Finish(sums[r][g], a.weight_terms[row + r], nullptr, to + g * 16);
    }
  }
}

template <class Ops, size_t kRows, bool kPrefetch>
HWY_INLINE void ValueRows(const cpu::PartitionArgs& a, size_t row) {
  constexpr size_t kGroups = kRows == Ops::kRows ? Ops::kVectors : Ops::kFewVectors;
  const size_t lanes = static_cast<size_t>(a.cache.v_stride());
  size_t lane = 0;
  for (; lane + kGroups * 16 <= lanes; lane += kGroups * 16) {
    ValueLanes<Ops, kRows, kGroups, kPrefetch>(a, row, lane);
  }
  for (; lane < lanes; lane += 16) ValueLanes<Ops, kRows, 1, kPrefetch>(a, row, lane);
}

// The rows in panels of 8, 4, 2, 1; the first panel prefetches.
template <class Ops, bool kScores, size_t kRows, bool kPrefetch>
HWY_INLINE void Panel(const cpu::PartitionArgs& a, size_t row) {
  if constexpr (kScores) {
    ScoreRows<Ops, kRows, kPrefetch>(a, row);
  } else {
    ValueRows<Ops, kRows, kPrefetch>(a, row);
  }
}

template <class Ops, bool kScores, size_t kRows>
HWY_INLINE size_t Panels(const cpu::PartitionArgs& a, size_t row) {
  if constexpr (kRows <= Ops::kRows) {
    if (row == 0 && a.rows >= kRows) {
      Panel<Ops, kScores, kRows, true>(a, 0);
      row = kRows;
    }
    for (; row + kRows <= a.rows; row += kRows) Panel<Ops, kScores, kRows, false>(a, row);
  }
  return row;
}

template <class Ops, bool kScores>
void AllRows(const cpu::PartitionArgs& a) {
  size_t row = 0;
  row = Panels<Ops, kScores, 8>(a, row);
  row = Panels<Ops, kScores, 4>(a, row);
  row = Panels<Ops, kScores, 2>(a, row);
  Panels<Ops, kScores, 1>(a, row);
}

}  // namespace tandem::kernels::TANDEM_TILE_NAMESPACE
