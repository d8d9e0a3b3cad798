// Packs activations in the order in which the linear kernels broadcast them: copied, rounded to
// bfloat16 or quantized to 8 bits.
#include <cmath>
#include <cstring>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear_activations.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/target_table.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

using I = hn::RebindToSigned<F>;
using U = hn::RebindToUnsigned<F>;

HWY_INLINE void StoreBf16(const float* HWY_RESTRICT x, int64_t n, uint16_t* HWY_RESTRICT out) {
  int64_t k = 0;
  for (; k + static_cast<int64_t>(kWidth) <= n; k += kWidth) {
    StoreHalves(RoundBf16(hn::LoadU(F(), x + k)), out + k);
  }
  for (; k < n; ++k) out[k] = FloatToBf16(x[k]);
}

HWY_INLINE ActivationScale FindScale(const float* HWY_RESTRICT x, int64_t n) {
  const U du;
  const I di;
  auto most_bits = hn::Zero(di);  // of magnitudes, which order as integers, NaN last
  int64_t k = 0;
  for (; k + static_cast<int64_t>(kWidth) <= n; k += kWidth) {
    const auto bits = hn::And(hn::BitCast(du, hn::LoadU(F(), x + k)), hn::Set(du, 0x7fffffff));
    most_bits = hn::Max(most_bits, hn::BitCast(di, bits));
  }
  int32_t most = hn::GetLane(hn::MaxOfLanes(di, most_bits));
  for (; k < n; ++k) {
    int32_t bits;
    std::memcpy(&bits, x + k, sizeof(bits));
    most = HWY_MAX(most, bits & 0x7fffffff);
  }
  return MakeActivationScale(static_cast<uint32_t>(most));
}

// Codes of n columns; returns their sum.
HWY_INLINE int32_t Quantize(const float* HWY_RESTRICT x, int64_t n, float inverse,
                            int8_t* HWY_RESTRICT codes) {
  const F d;
  const I di;
  const hn::Rebind<int8_t, F> bytes;
  if (inverse == 0) {
    std::memset(codes, 0, static_cast<size_t>(n));
    return 0;
  }
  const V factor = hn::Set(d, inverse);
  auto sums = hn::Zero(di);
  int64_t k = 0;
  for (; k + static_cast<int64_t>(kWidth) <= n; k += kWidth) {
    const auto code = hn::NearestInt(hn::Mul(hn::LoadU(d, x + k), factor));
    sums = hn::Add(sums, code);
    hn::StoreU(hn::DemoteTo(bytes, code), bytes, codes + k);
  }
  int32_t sum = hn::GetLane(hn::SumOfLanes(di, sums));
  for (; k < n; ++k) {
    codes[k] = QuantizeActivation(x[k], inverse);
    sum += codes[k];
  }
  return sum;
}

// n columns of one token to every stride-th 4 bytes of out; the sum of their codes.
HWY_INLINE int32_t Scatter(const cpu::SpanLayout& layout, const float* HWY_RESTRICT x, int64_t n,
                           float inverse, int64_t stride, uint32_t* HWY_RESTRICT out) {
  constexpr int64_t kColumns = 512;  // at a time
  HWY_ALIGN uint32_t values[kColumns];
  int32_t sum = 0;
  for (int64_t k = 0; k < n; k += kColumns) {
    const int64_t count = HWY_MIN(kColumns, n - k);
    uint32_t* HWY_RESTRICT to = stride == 1 ? out : values;
    int64_t bytes = count * 4;
    if (layout.quantized()) {
      sum += Quantize(x + k, count, inverse, reinterpret_cast<int8_t*>(to));
      bytes = count;
    } else if (layout.kind == cpu::WeightKind::kBF16) {
      StoreBf16(x + k, count, reinterpret_cast<uint16_t*>(to));
      bytes = count * 2;
    } else {
      std::memcpy(to, x + k, static_cast<size_t>(bytes));
    }
    const int64_t steps = (bytes + 3) / 4;
    if (steps * 4 != bytes) {
      std::memset(reinterpret_cast<std::byte*>(to) + bytes, 0,
                  static_cast<size_t>(steps * 4 - bytes));
    }
    if (stride != 1) {
      for (int64_t s = 0; s < steps; ++s) out[s * stride] = values[s];
    }
    out += steps * stride;
  }
  return sum;
}

// One token's activations of one span: n columns at x.
HWY_INLINE void PackSpan(const cpu::SpanLayout& layout, const float* x, int64_t n,
                         const cpu::Activations::Block& block, int64_t span, int64_t token) {
  const int64_t steps = layout.value_bytes() / 4;
  const int64_t at = span * block.tokens + token;
  auto* values = reinterpret_cast<uint32_t*>(block.values) + span * steps * block.tokens + token;
  const ActivationScale scale = layout.quantized() ? FindScale(x, n) : ActivationScale();
  const int32_t sum = Scatter(layout, x, n, scale.inverse, block.tokens, values);
  if (!layout.quantized()) return;
  block.scales[at] = scale.scale;
  block.starts[at] = -(layout.zero_points ? 1 : layout.offset()) * sum;
  // 4-bit codes come in pairs of quads: the second may be padding.
  if (layout.kind == cpu::WeightKind::kInt4 && (n + 3) / 4 % 2 == 1) {
    values[(n + 3) / 4 * block.tokens] = 0;
  }
}

void PackActivations(const cpu::SpanLayout& layout, const float* x, int64_t columns, int64_t begin,
                     int64_t end, const cpu::Activations& out) {
  for (int64_t unit = begin; unit < end;) {
    // Units of one block, token by token: x is read in order.
    const int64_t first = unit / out.spans * cpu::kTokenBlock;
    const int64_t first_span = unit % out.spans;
    const int64_t end_span = HWY_MIN(out.spans, first_span + end - unit);
    const cpu::Activations::Block block = out.block(layout, first);
    const int64_t first_column = layout.span_column(first_span);
    const int64_t first_leaf_end = (first_column / layout.leaf + 1) * layout.leaf;
    for (int64_t t = 0; t < block.tokens; ++t) {
      const float* row = x + (first + t) * columns;
      int64_t column = first_column, leaf_end = first_leaf_end;
      for (int64_t span = first_span; span < end_span; ++span) {
        const int64_t n = HWY_MIN(layout.span, HWY_MIN(leaf_end, columns) - column);
        PackSpan(layout, row + column, n, block, span, t);
        column += n;
        if (column == leaf_end) leaf_end += layout.leaf;
      }
    }
    unit += end_span - first_span;
  }
}

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(PackActivations);

namespace cpu {

size_t Activations::Bytes(const SpanLayout& layout, int64_t columns, int64_t tokens) {
  const int64_t items = layout.spans(columns) * tokens;
  const int64_t values = RoundUp(items * layout.value_bytes(), 64);
  return static_cast<size_t>(values + (layout.quantized() ? items * 8 : 0));
}

Activations Activations::In(std::byte* buffer, const SpanLayout& layout, int64_t columns,
                            int64_t tokens) {
  const int64_t items = layout.spans(columns) * tokens;
  Activations out = {.values = buffer, .spans = layout.spans(columns), .tokens = tokens};
  if (layout.quantized()) {
    out.scales = reinterpret_cast<float*>(buffer + RoundUp(items * layout.value_bytes(), 64));
    out.starts = reinterpret_cast<int32_t*>(out.scales + items);
  }
  return out;
}

PackActivationsFn PackActivationsOf(int64_t target) {
  return TANDEM_FOR_TARGET(PackActivations, target);
}

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
