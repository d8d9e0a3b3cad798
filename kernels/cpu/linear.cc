// Products of packed weights with one or many tokens. See cpu_kernels.h for the
// layout and backend.h for the order of additions.
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/linear.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/vector_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tandem::kernels::HWY_NAMESPACE {

// Groups of 16 rows worked on at once: as many accumulators as the registers of
// the target hold beside the operands.
inline constexpr size_t kRegisters = HWY_LANES(float) >= 16 ? 32 : 16;

// acc[m, g] = sum over columns [k0, k1) of panel rows g for kTokens tokens.
// panel points at the group's first row, its columns panel_stride apart; sums go
// to out[m * out_stride + 16 g].
template <DType dtype, size_t kTokens, size_t kGroups>
HWY_INLINE void SumLeaf(const typename Storage<dtype>::T* HWY_RESTRICT panel, size_t panel_stride,
                        const float* HWY_RESTRICT x, size_t x_stride, size_t k0, size_t k1,
                        float* HWY_RESTRICT out, size_t out_stride) {
  const F d;
  constexpr size_t kVectors = kGroups * kGroup;
  V acc[kTokens][kVectors];
  for (size_t m = 0; m < kTokens; ++m) {
    for (size_t v = 0; v < kVectors; ++v) acc[m][v] = hn::Zero(d);
  }
  const auto* HWY_RESTRICT w = panel + k0 * panel_stride;
  for (size_t k = k0; k < k1; ++k, w += panel_stride) {
    V weight[kVectors];
    for (size_t v = 0; v < kVectors; ++v) weight[v] = LoadWide<dtype>(w + v * kWidth);
    for (size_t m = 0; m < kTokens; ++m) {
      const V value = hn::Set(d, x[m * x_stride + k]);
      for (size_t v = 0; v < kVectors; ++v) acc[m][v] = hn::MulAdd(weight[v], value, acc[m][v]);
    }
  }
  for (size_t m = 0; m < kTokens; ++m) {
    for (size_t v = 0; v < kVectors; ++v) {
      hn::StoreU(acc[m][v], d, out + m * out_stride + v * kWidth);
    }
  }
}

// One leaf of a panel of kPanelGroups groups for kTokens tokens, in pieces that
// fit the registers.
template <DType dtype, size_t kTokens, size_t kPanelGroups>
HWY_INLINE void LeafTile(const typename Storage<dtype>::T* HWY_RESTRICT panel,
                         const float* HWY_RESTRICT x, size_t x_stride, size_t k0, size_t k1,
                         float* HWY_RESTRICT out, size_t out_stride) {
  constexpr size_t kFit = kRegisters * 3 / 4 / kGroup / kTokens;
  constexpr size_t kGroups = kFit >= kPanelGroups ? kPanelGroups : (kFit >= 2 ? 2 : 1);
  static_assert(kPanelGroups % kGroups == 0);
  for (size_t g = 0; g < kPanelGroups; g += kGroups) {
    SumLeaf<dtype, kTokens, kGroups>(panel + g * kLanes, kPanelGroups * kLanes, x, x_stride, k0, k1,
                                     out + g * kLanes, out_stride);
  }
}

template <DType dtype, size_t kPanelGroups>
HWY_INLINE void LeafTokens(const typename Storage<dtype>::T* HWY_RESTRICT panel, size_t tokens,
                           const float* HWY_RESTRICT x, size_t x_stride, size_t k0, size_t k1,
                           float* HWY_RESTRICT out, size_t out_stride) {
  constexpr size_t kMost = kRegisters >= 32 ? 6 : 4;
  size_t m = 0;
  for (; m + kMost <= tokens; m += kMost) {
    LeafTile<dtype, kMost, kPanelGroups>(panel, x + m * x_stride, x_stride, k0, k1,
                                         out + m * out_stride, out_stride);
  }
  for (; m + 2 <= tokens; m += 2) {
    LeafTile<dtype, 2, kPanelGroups>(panel, x + m * x_stride, x_stride, k0, k1,
                                     out + m * out_stride, out_stride);
  }
  if (m < tokens) {
    LeafTile<dtype, 1, kPanelGroups>(panel, x + m * x_stride, x_stride, k0, k1,
                                     out + m * out_stride, out_stride);
  }
}

HWY_INLINE void AddInto(float* HWY_RESTRICT left, const float* HWY_RESTRICT right, size_t n) {
  const F d;
  for (size_t i = 0; i < n; i += kWidth) {
    hn::StoreU(hn::Add(hn::LoadU(d, left + i), hn::LoadU(d, right + i)), d, left + i);
  }
}

// One panel for up to kTokenBlock tokens. The stack of partial sums is
// [depth, tokens, panel rows].
template <DType dtype, size_t kPanelGroups>
void PanelTokens(const cpu::LinearArgs& a, const typename Storage<dtype>::T* HWY_RESTRICT panel,
                 int64_t first_row, int64_t first_token, size_t tokens, float* HWY_RESTRICT stack) {
  constexpr size_t kRows = kPanelGroups * kLanes;
  const size_t level = tokens * kRows;
  const float* x = a.x + first_token * a.columns;
  const size_t rows = static_cast<size_t>(HWY_MIN(static_cast<int64_t>(kRows), a.rows - first_row));
  float* top = stack;  // first free level
  int64_t subtree = 0;
  for (const LeafStep& step : a.schedule->steps) {
    LeafTokens<dtype, kPanelGroups>(panel, tokens, x, a.columns, step.column_begin, step.column_end,
                                    top, kRows);
    top += level;
    for (int32_t m = 0; m < step.merges; ++m) {
      top -= level;
      AddInto(top - level, top, level);
    }
    if (step.emit) {
      top -= level;
      for (size_t t = 0; t < tokens; ++t) {
        float* y = a.y + (subtree * a.tokens + first_token + t) * a.rows + first_row;
        if (a.bias == nullptr) {
          std::memcpy(y, top + t * kRows, rows * sizeof(float));
        } else {
          for (size_t r = 0; r < rows; ++r) y[r] = top[t * kRows + r] + a.bias[first_row + r];
        }
      }
      ++subtree;
    }
  }
}

template <DType dtype>
void LinearPanelsTyped(const cpu::LinearArgs& a, int64_t panel_begin, int64_t panel_end,
                       float* scratch) {
  const cpu::PanelLayout layout(a.rows);
  const auto* base = static_cast<const typename Storage<dtype>::T*>(a.panels);
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    const int64_t row = layout.first_row(p);
    const auto* panel = base + row * a.columns;
    for (int64_t t = 0; t < a.tokens; t += cpu::kTokenBlock) {
      const size_t tokens = static_cast<size_t>(HWY_MIN(cpu::kTokenBlock, a.tokens - t));
      if (p < layout.full_panels) {
        PanelTokens<dtype, 4>(a, panel, row, t, tokens, scratch);
      } else {
        PanelTokens<dtype, 1>(a, panel, row, t, tokens, scratch);
      }
    }
  }
}

void LinearPanelsTarget(const cpu::LinearArgs& a, int64_t panel_begin, int64_t panel_end,
                        float* scratch) {
  switch (a.dtype) {
    case DType::kF32:
      LinearPanelsTyped<DType::kF32>(a, panel_begin, panel_end, scratch);
      return;
    case DType::kF16:
      LinearPanelsTyped<DType::kF16>(a, panel_begin, panel_end, scratch);
      return;
    case DType::kBF16:
      LinearPanelsTyped<DType::kBF16>(a, panel_begin, panel_end, scratch);
      return;
  }
}

const char* IsaNameTarget() { return hwy::TargetName(HWY_TARGET); }

}  // namespace tandem::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tandem::kernels {
HWY_EXPORT(LinearPanelsTarget);
HWY_EXPORT(IsaNameTarget);

namespace cpu {

size_t LinearScratchBytes(const LeafSchedule& schedule) {
  return sizeof(float) * (schedule.max_depth + 1) * kTokenBlock * kPanelRows;
}

void LinearPanels(const LinearArgs& args, int64_t panel_begin, int64_t panel_end, float* scratch) {
  HWY_DYNAMIC_DISPATCH(LinearPanelsTarget)(args, panel_begin, panel_end, scratch);
}

const char* IsaName() { return HWY_DYNAMIC_DISPATCH(IsaNameTarget)(); }

void PackPanel(const std::byte* rows_data, int64_t rows, int64_t columns, size_t element_bytes,
               int64_t panel_rows, std::byte* panel) {
  // Columns in runs of one cache line of the source, so that both sides stay in
  // the first-level cache.
  const auto transpose = [&](auto* out, const auto* in) {
    const int64_t run = 64 / static_cast<int64_t>(sizeof(*out));
    for (int64_t k0 = 0; k0 < columns; k0 += run) {
      const int64_t k1 = k0 + run < columns ? k0 + run : columns;
      for (int64_t r = 0; r < panel_rows; ++r) {
        for (int64_t k = k0; k < k1; ++k) {
          out[k * panel_rows + r] = r < rows ? in[r * columns + k] : 0;
        }
      }
    }
  };
  if (element_bytes == 4) {
    transpose(reinterpret_cast<uint32_t*>(panel), reinterpret_cast<const uint32_t*>(rows_data));
  } else {
    transpose(reinterpret_cast<uint16_t*>(panel), reinterpret_cast<const uint16_t*>(rows_data));
  }
}

}  // namespace cpu
}  // namespace tandem::kernels
#endif  // HWY_ONCE
