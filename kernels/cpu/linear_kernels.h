// The kernels of linear products. Each call does one thread's part of the work. The bits are those
// that operations.h defines, whatever the instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/panel_layout.h"
#include "kernels/weight_store.h"

namespace tandem::kernels::cpu {

// Tokens that pass a leaf of a panel together, two tiles: their partial sums, the
// leaf and its activations fit the first-level cache. Also the unit in which
// activations are stored.
inline constexpr int64_t kTokenBlock = 12;

// Activations of `tokens` tokens in the kernels' order: a block of kTokenBlock
// tokens (the last may have fewer) after another, and in a block [spans, steps,
// block tokens, 4 bytes], a step being a quad of 8-bit codes, a pair of bfloat16
// or one fp32.
struct Activations {
  std::byte* values = nullptr;
  float* scales = nullptr;  // of integer formats: in a block [spans, block tokens]
  // Likewise: what the dot products start from, the sum of the codes times minus
  // the layout's offset; with zero points minus the sum.
  int32_t* starts = nullptr;
  int64_t spans = 0;
  int64_t tokens = 0;

  // Where they lie in one buffer, and its bytes.
  static size_t Bytes(const SpanLayout& layout, int64_t columns, int64_t tokens);
  static Activations In(std::byte* buffer, const SpanLayout& layout, int64_t columns,
                        int64_t tokens);

  // What PackActivations takes at a time: the columns of one span of one token block, blocks in
  // order.
  int64_t units() const { return (tokens + kTokenBlock - 1) / kTokenBlock * spans; }

  // The block that begins at token `first`.
  struct Block {
    uint8_t* values;
    float* scales;
    int32_t* starts;
    int64_t tokens;
  };
  Block block(const SpanLayout& layout, int64_t first) const {
    const int64_t before = first * spans;
    return {reinterpret_cast<uint8_t*>(values) + before * layout.value_bytes(), scales + before,
            starts + before, std::min(kTokenBlock, tokens - first)};
  }
};

// Packs units [begin, end) of x [tokens, columns] into out. A unit's memory is contiguous: threads
// that pack different ranges of units do not write to each other's cache lines, except where their
// ranges meet.
using PackActivationsFn = void (*)(const SpanLayout& layout, const float* x, int64_t columns,
                                   int64_t begin, int64_t end, const Activations& out);

struct LinearArgs {
  const SpanLayout* layout = nullptr;
  const LeafSchedule* schedule = nullptr;
  std::span<const Segment> segments;  // their rows one after another
  int64_t rows = 0;                   // of all segments
  Activations x;                      // tokens [first_token, first_token + x.tokens) of y's
  int64_t first_token = 0;
  int64_t tokens = 0;
  const float* bias = nullptr;
  float* y = nullptr;       // [subtree, tokens, rows]
  bool prefetches = false;  // codes, in products of one token (NeedsSoftwarePrefetch)
};

// The scratch that a thread needs for a block's partial sums.
inline size_t LinearScratchFloats(const LeafSchedule& schedule) {
  return static_cast<size_t>((schedule.max_depth + 1) * kTokenBlock * kPanelRows);
}

// Panels [panel_begin, panel_end), counted over all segments.
using LinearPanelsFn = void (*)(const LinearArgs& args, int64_t panel_begin, int64_t panel_end,
                                float* scratch);
using PanelKernels = std::array<LinearPanelsFn, kWeightKinds>;

struct LinearKernels {
  PackActivationsFn pack_activations = nullptr;
  PanelKernels panels = {};  // by WeightKind
};
LinearKernels LinearKernelsOf(const InstructionSet& set);

// Parts of that; target: InstructionSet::target.
PackActivationsFn PackActivationsOf(int64_t target);
// Puts the kernels in place that use the dot-product instructions.
void UseDotInstructions(DotInstructions use, PanelKernels& kernels);

// Rows are packed panel by panel. rows_data holds `rows` <= panel_rows rows of
// `columns` elements, row-major; missing rows become zero.
void PackPanel(const SpanLayout& layout, const std::byte* rows_data, int64_t rows, int64_t columns,
               int64_t panel_rows, std::byte* panel);
// The same of quantized rows: codes [rows, columns]; scales and zeros [rows,
// groups], the first group `first_column % group` columns in.
void PackQuantizedPanel(const SpanLayout& layout, const QuantizedRows& rows_data, int64_t rows,
                        int64_t columns, int64_t first_column, int64_t group_size, int64_t groups,
                        int64_t panel_rows, std::byte* panel);

}  // namespace tandem::kernels::cpu
