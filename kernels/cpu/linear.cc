// Linear products with Highway: every format on AVX2, AVX-512 and NEON. linear_loops-inl.h has the
// loops.
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/base/check.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/target_table.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

// The compiler's baseline is never chosen (instruction_set.h).
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128

void Unreachable(const cpu::LinearArgs&, int64_t, int64_t, float*) { TANDEM_CHECK(false); }
inline constexpr auto& LinearF32 = Unreachable;
inline constexpr auto& LinearF16 = Unreachable;
inline constexpr auto& LinearBf16 = Unreachable;
inline constexpr auto& LinearInt8 = Unreachable;
inline constexpr auto& LinearInt4 = Unreachable;

#else

struct Ops {
  using I = hn::RebindToSigned<F>;
  using U = hn::RebindToUnsigned<F>;
  using I16 = hn::Repartition<int16_t, F>;
  using U16 = hn::Repartition<uint16_t, F>;
  using U8 = hn::Repartition<uint8_t, F>;

  static constexpr size_t kWidth = HWY_MIN(HWY_LANES(float), kLanes);
  // With 32 registers 24 accumulators leave room for the operands, with 16 eight.
  static constexpr bool kManyRegisters = HWY_LANES(float) >= 16 || HWY_TARGET == HWY_NEON;
  static constexpr size_t kAccumulators = kManyRegisters ? 24 : 8;
  static constexpr size_t kIntegerAccumulators = kManyRegisters ? 12 : 4;
  static constexpr size_t kMostTokens = kManyRegisters ? 6 : 4;

  using Float = V;
  static HWY_INLINE Float Zero() { return hn::Zero(F()); }
  static HWY_INLINE Float Set(float value) { return hn::Set(F(), value); }
  static HWY_INLINE Float Load(const float* p) { return hn::LoadU(F(), p); }
  static HWY_INLINE void Store(Float v, float* p) { hn::StoreU(v, F(), p); }
  static HWY_INLINE Float Add(Float a, Float b) { return hn::Add(a, b); }
  static HWY_INLINE Float Mul(Float a, Float b) { return hn::Mul(a, b); }
  static HWY_INLINE Float MulAdd(Float a, Float b, Float c) { return hn::MulAdd(a, b, c); }
  static HWY_INLINE Float LoadScales(DType dtype, const uint8_t* p) {
    switch (dtype) {
      case DType::kF16:
        return LoadWide<DType::kF16>(reinterpret_cast<const hwy::float16_t*>(p));
      case DType::kBF16:
        return LoadWide<DType::kBF16>(reinterpret_cast<const hwy::bfloat16_t*>(p));
      default:
        return Load(reinterpret_cast<const float*>(p));
    }
  }

  // Integer dot products by widening to 16 bits: products of u8 and s8 summed in
  // pairs overflow 16 bits. Even and odd bytes of a quad lie in two vectors.
  struct Codes {
    hn::Vec<I16> even, odd;
  };
  // Two vectors where the target's widening multiply fills halves (NEON).
  struct Sum {
    hn::Vec<I> first, second;
  };
  static HWY_INLINE Codes SplitCodes(hn::Vec<U8> bytes) {
    const auto pairs = hn::BitCast(U16(), bytes);
    return {hn::BitCast(I16(), hn::And(pairs, hn::Set(U16(), 0xff))),
            hn::BitCast(I16(), hn::ShiftRight<8>(pairs))};
  }
  static HWY_INLINE Codes LoadCodes(const uint8_t* p) { return SplitCodes(hn::LoadU(U8(), p)); }
  static HWY_INLINE void LoadNibbles(const uint8_t* p, Codes& low, Codes& high) {
    const auto bytes = hn::LoadU(U8(), p);
    const auto mask = hn::Set(U8(), 0x0f);
    low = SplitCodes(hn::And(bytes, mask));
    const auto shifted = hn::ShiftRight<4>(hn::BitCast(U16(), bytes));
    high = SplitCodes(hn::And(hn::BitCast(U8(), shifted), mask));
  }
  static HWY_INLINE Codes BroadcastQuad(const uint8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, sizeof(quad));
    const auto pairs = hn::BitCast(I16(), hn::Set(I(), quad));
    return {hn::ShiftRight<8>(hn::ShiftLeft<8>(pairs)), hn::ShiftRight<8>(pairs)};
  }
  // The lanes' starting values, in the order of ToFloat.
  static HWY_INLINE Sum StartVector(hn::Vec<I> value) {
    const auto zero = hn::Zero(I());
    if constexpr (HWY_TARGET == HWY_NEON) {
      return {hn::InterleaveLower(I(), value, zero), hn::InterleaveUpper(I(), value, zero)};
    } else {
      return {value, zero};
    }
  }
  static HWY_INLINE Sum Start(int32_t value) { return StartVector(hn::Set(I(), value)); }
  static HWY_INLINE hn::Vec<I> LoadZeros(const uint8_t* p, int32_t offset) {
    const hn::Rebind<uint8_t, F> bytes;
    return hn::Add(hn::PromoteTo(I(), hn::LoadU(bytes, p)), hn::Set(I(), offset));
  }
  static HWY_INLINE Sum StartProduct(hn::Vec<I> zeros, int32_t value) {
    return StartVector(hn::Mul(zeros, hn::Set(I(), value)));
  }
  static HWY_INLINE Sum Dot(Sum sum, Codes w, Codes x) {
    sum.first = hn::ReorderWidenMulAccumulate(I(), w.even, x.even, sum.first, sum.second);
    sum.first = hn::ReorderWidenMulAccumulate(I(), w.odd, x.odd, sum.first, sum.second);
    return sum;
  }
  static HWY_INLINE Float ToFloat(Sum sum) {
    return hn::ConvertTo(F(), hn::RearrangeToOddPlusEven(sum.first, sum.second));
  }
};

#include "kernels/cpu/linear_loops-inl.h"

// fp32 and fp16: activations stay fp32.
template <DType dtype>
struct WideFormat {
  static constexpr bool kFlushesDenormals = false;
  static constexpr size_t kStepColumns = 1;
  static constexpr size_t kStepBytes = sizeof(typename Storage<dtype>::T);
  static constexpr size_t kValueBytes = sizeof(float);
  using Weight = V;
  using Value = V;
  static HWY_INLINE Weight LoadWeight(const uint8_t* p) {
    return LoadWide<dtype>(reinterpret_cast<const typename Storage<dtype>::T*>(p));
  }
  static HWY_INLINE Value Broadcast(const uint8_t* p) {
    float value;
    std::memcpy(&value, p, sizeof(value));
    return hn::Set(F(), value);
  }
  static HWY_INLINE V Dot(V sum, Weight w, Value x) { return hn::MulAdd(w, x, sum); }
};

// bfloat16 in pairs, as the dot-product instruction adds them: the odd column
// first.
struct PairFormat {
  static constexpr bool kFlushesDenormals = true;
  static constexpr size_t kStepColumns = 2;
  static constexpr size_t kStepBytes = 4;
  static constexpr size_t kValueBytes = 4;
  struct Weight {
    V even, odd;
  };
  using Value = Weight;
  static HWY_INLINE Weight Split(hn::Vec<Ops::U> pairs) {
    return {hn::BitCast(F(), hn::ShiftLeft<16>(pairs)),
            hn::BitCast(F(), hn::And(pairs, hn::Set(Ops::U(), 0xffff0000u)))};
  }
  static HWY_INLINE Weight LoadWeight(const uint8_t* p) {
    return Split(hn::BitCast(Ops::U(), hn::LoadU(Ops::U8(), p)));
  }
  static HWY_INLINE Value Broadcast(const uint8_t* p) {
    uint32_t pair;
    std::memcpy(&pair, p, sizeof(pair));
    return Split(hn::Set(Ops::U(), pair));
  }
  static HWY_INLINE V Dot(V sum, Weight w, Value x) {
    return hn::MulAdd(w.even, x.even, hn::MulAdd(w.odd, x.odd, sum));
  }
};

void LinearF32(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, FloatLeaf<Ops, WideFormat<DType::kF32>>>(a, begin, end, scratch);
}
void LinearF16(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, FloatLeaf<Ops, WideFormat<DType::kF16>>>(a, begin, end, scratch);
}
void LinearBf16(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, FloatLeaf<Ops, PairFormat>>(a, begin, end, scratch);
}
void LinearInt8(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, IntegerLeaf<Ops, 8>>(a, begin, end, scratch);
}
void LinearInt4(const cpu::LinearArgs& a, int64_t begin, int64_t end, float* scratch) {
  LinearPanels<Ops, IntegerLeaf<Ops, 4>>(a, begin, end, scratch);
}

#endif

cpu::PanelKernels PanelKernelsHere() {
  return {&LinearF32, &LinearF16, &LinearBf16, &LinearInt8, &LinearInt4};
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(PanelKernelsHere);

namespace cpu {

LinearKernels LinearKernelsOf(const InstructionSet& set) {
  LinearKernels kernels = {.pack_activations = PackActivationsOf(set.target),
                           .panels = TANDEM_FOR_TARGET(PanelKernelsHere, set.target)()};
  UseDotInstructions(set.dot, kernels.panels);
  return kernels;
}

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
