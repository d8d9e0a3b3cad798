// The dot products of attention with Highway, one class for each format (the Ops of
// attention_tile-inl.h). Included once per target, inside its namespace: no include guard, no
// namespace.

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
