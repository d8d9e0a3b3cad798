// The SIMD kernels of the CPU backend, dispatched at run time to the best
// instruction set that the process may use. Each works on one thread's share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace tandem::kernels::cpu {

// Rows of a full weight panel; the rest of the rows lie in panels of kTailRows,
// the last padded with zeros. A panel is [columns, panel rows]: a vector lane is
// an output row and columns run in order, so one token and many add alike, and a
// panel is read as one stream.
inline constexpr int64_t kPanelRows = 64;
inline constexpr int64_t kTailRows = 16;

struct PanelLayout {
  int64_t full_panels = 0;
  int64_t tail_panels = 0;
  explicit PanelLayout(int64_t rows)
      : full_panels(rows / kPanelRows),
        tail_panels((rows % kPanelRows + kTailRows - 1) / kTailRows) {}
  int64_t panels() const { return full_panels + tail_panels; }
  int64_t padded_rows() const { return full_panels * kPanelRows + tail_panels * kTailRows; }
  int64_t first_row(int64_t panel) const {
    return panel < full_panels ? panel * kPanelRows
                               : full_panels * kPanelRows + (panel - full_panels) * kTailRows;
  }
  int64_t panel_rows(int64_t panel) const { return panel < full_panels ? kPanelRows : kTailRows; }
};

// Tokens that LinearPanels takes at a time, and the scratch it needs for it.
inline constexpr int64_t kTokenBlock = 24;
size_t LinearScratchBytes(const LeafSchedule& schedule);

struct LinearArgs {
  const void* panels = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  const LeafSchedule* schedule = nullptr;
  const float* x = nullptr;  // [tokens, columns]
  int64_t tokens = 0;
  const float* bias = nullptr;
  float* y = nullptr;  // [subtree, tokens, rows]
};

// Panels [panel_begin, panel_end).
void LinearPanels(const LinearArgs& args, int64_t panel_begin, int64_t panel_end, float* scratch);

// Transposes `rows` <= panel_rows rows of `columns` elements of element_bytes
// (2 or 4), row-major, into one panel; missing rows become zero.
void PackPanel(const std::byte* rows_data, int64_t rows, int64_t columns, size_t element_bytes,
               int64_t panel_rows, std::byte* panel);

void AddRmsNormRow(const float* delta, const float* delta_bias, float* residual,
                   const float* weight, float epsilon, int64_t hidden, float* out);
void SiluMulRow(const float* gate, const float* up, int64_t columns, float* out);
void WidenRow(const void* row, DType dtype, int64_t columns, float* out);

// Token `token` of args.
void RopeAndCacheToken(const RopeAndCacheArgs& args, int64_t token);

// Floats of scratch that AttendToken needs.
size_t AttentionScratchFloats(const PagedAttentionArgs& args);

// All local query heads of KV head kv_head for one token: heads
// [head_begin, head_end).
void AttendToken(const PagedAttentionArgs& args, int64_t token, int64_t head_begin,
                 int64_t head_end, float* scratch);

// Name of the instruction set that calls are dispatched to ("AVX2", "AVX3", ...).
const char* IsaName();

}  // namespace tandem::kernels::cpu
