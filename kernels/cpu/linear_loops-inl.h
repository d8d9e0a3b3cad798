// The loops of a linear product over panels, token blocks, leaves and tiles, for the instruction
// set that Ops wraps. Included once for each instruction set, inside its namespace and its target
// attributes: no include guard, no namespace.
//
// Ops has kWidth lanes (output rows) and kAccumulators that fit the registers. A Format of weights
// has kStepColumns, and the arithmetic of one step.

// Tiles of this many tokens or more prefetch.
inline constexpr size_t kPrefetchTokens = 4;

// Arguments for a tile of tokens and one leaf of a panel.
struct LeafArgs {
  const cpu::SpanLayout* layout;
  const uint8_t* weights;  // the leaf's first span, row 0 of the panel
  const uint8_t* values;   // the first span's values of the tile's first token
  const float* scales;
  const int32_t* starts;
  size_t tokens;      // of the block: the stride of scales and starts
  size_t token_step;  // bytes of a step of the block's tokens
  size_t columns;
  const uint8_t* ahead;  // the tile's part of the next leaf, to prefetch
  size_t ahead_bytes;
  float* top;      // [tile tokens, panel rows]
  size_t level;    // floats between levels of the stack
  int32_t merges;  // levels below top that the sums are added to
};

// Prefetches the next leaf into the second-level cache while this one is computed, some lines at
// each call, so that memory and arithmetic overlap. The hardware's prefetcher stays within a page.
// It works best if a few tokens read a panel in order; with more tokens, reading pauses too often.
class Prefetcher {
 public:
  Prefetcher(const LeafArgs& a, size_t calls)
      : next_(a.ahead), lines_((a.ahead_bytes / 64 + calls - 1) / calls) {}
  HWY_INLINE void Some() {
    for (size_t i = 0; i < lines_; ++i, next_ += 64) __builtin_prefetch(next_, 0, 2);
  }

 private:
  const uint8_t* next_;
  const size_t lines_;
};

// Adds the leaf's sums to the levels below, left + right, and stores them. All
// loops over a tile are unrolled: its sums must stay in registers.
template <class Ops, size_t kTokens, size_t kVectors, size_t kRows>
HWY_INLINE void FinishLeaf(const LeafArgs& a, size_t row,
                           typename Ops::Float (&sum)[kTokens][kVectors]) {
  float* to = a.top + row;
  for (int32_t i = 0; i < a.merges; ++i) {
    to -= a.level;
#pragma GCC unroll 24
    for (size_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) {
        sum[m][v] = Ops::Add(Ops::Load(to + m * kRows + v * Ops::kWidth), sum[m][v]);
      }
    }
  }
#pragma GCC unroll 24
  for (size_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 24
    for (size_t v = 0; v < kVectors; ++v) {
      Ops::Store(sum[m][v], to + m * kRows + v * Ops::kWidth);
    }
  }
}

// Floating-point formats: one accumulator a row and token, columns in order.
template <class Ops, class Format>
struct FloatLeaf {
  using Ahead = FloatLeaf;  // the hardware prefetches floats fast enough
  static constexpr bool kFlushesDenormals = Format::kFlushesDenormals;
  static constexpr size_t kAccumulators = Ops::kAccumulators;
  static constexpr size_t kPrefetchColumns = Format::kStepColumns;

  template <size_t kTokens, size_t kVectors, size_t kRows>
  static HWY_INLINE void Sum(const LeafArgs& a, size_t row, Prefetcher& ahead) {
    typename Ops::Float sum[kTokens][kVectors];
#pragma GCC unroll 24
    for (size_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) sum[m][v] = Ops::Zero();
    }
    const size_t steps = (a.columns + Format::kStepColumns - 1) / Format::kStepColumns;
    const uint8_t* w = a.weights + row * Format::kStepBytes;
    const uint8_t* x = a.values;
    for (size_t s = 0; s < steps; ++s) {
      if constexpr (kTokens >= kPrefetchTokens) ahead.Some();
      typename Format::Weight weight[kVectors];
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) {
        weight[v] = Format::LoadWeight(w + v * Ops::kWidth * Format::kStepBytes);
      }
#pragma GCC unroll 24
      for (size_t m = 0; m < kTokens; ++m) {
        const typename Format::Value value = Format::Broadcast(x + m * 4);
#pragma GCC unroll 24
        for (size_t v = 0; v < kVectors; ++v) {
          sum[m][v] = Format::Dot(sum[m][v], weight[v], value);
        }
      }
      w += kRows * Format::kStepBytes;
      x += a.token_step;
    }
    FinishLeaf<Ops, kTokens, kVectors, kRows>(a, row, sum);
  }
};

// Integer formats: a dot product for each span, then one fused multiply-add by the product of the
// scales. With one token, codes are prefetched into the second-level cache kBytesAhead bytes ahead;
// 0: the hardware prefetches.
template <class Ops, int kBits, size_t kBytesAhead = 0>
struct IntegerLeaf {
  using Ahead = IntegerLeaf<Ops, kBits, 4096>;
  static constexpr bool kFlushesDenormals = false;
  static constexpr size_t kAccumulators = Ops::kIntegerAccumulators;
  static constexpr size_t kPrefetchColumns = 32;
  static constexpr size_t kQuads = 8 / kBits;  // quads of columns in a step

  // kSteps steps of a span; unrolled, since GCC 12 copies the accumulators otherwise.
  template <size_t kSteps, size_t kTokens, size_t kVectors, size_t kRows>
  static HWY_INLINE void Steps(const uint8_t* HWY_RESTRICT codes, const uint8_t* HWY_RESTRICT x,
                               size_t token_step, typename Ops::Sum (&acc)[kTokens][kVectors]) {
    constexpr size_t kW = Ops::kWidth;
#pragma GCC unroll 8
    for (size_t s = 0; s < kSteps; ++s) {
      typename Ops::Codes weight[kQuads][kVectors];
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) {
        if constexpr (kBytesAhead > 0) __builtin_prefetch(codes + v * kW * 4 + kBytesAhead, 0, 2);
        if constexpr (kBits == 8) {
          weight[0][v] = Ops::LoadCodes(codes + v * kW * 4);
        } else {
          Ops::LoadNibbles(codes + v * kW * 4, weight[0][v], weight[1][v]);
        }
      }
      for (size_t q = 0; q < kQuads; ++q) {
#pragma GCC unroll 24
        for (size_t m = 0; m < kTokens; ++m) {
          const auto value = Ops::BroadcastQuad(x + m * 4);
#pragma GCC unroll 24
          for (size_t v = 0; v < kVectors; ++v) {
            acc[m][v] = Ops::Dot(acc[m][v], weight[q][v], value);
          }
        }
        x += token_step;
      }
      codes += kRows * 4;
    }
  }

  // With one token the end of each span takes a noticeable part of the time: for the usual form of
  // scales, that form is a compile-time constant.
  template <size_t kTokens, size_t kVectors, size_t kRows>
  static HWY_INLINE void Sum(const LeafArgs& a, size_t row, Prefetcher& ahead) {
    if (kTokens == 1 && a.layout->scale_dtype == DType::kF16 && !a.layout->zero_points) {
      SumSpans<kTokens, kVectors, kRows>(a, row, ahead, DType::kF16, false);
    } else {
      SumSpans<kTokens, kVectors, kRows>(a, row, ahead, a.layout->scale_dtype,
                                         a.layout->zero_points);
    }
  }

  template <size_t kTokens, size_t kVectors, size_t kRows>
  static HWY_INLINE void SumSpans(const LeafArgs& a, size_t row, Prefetcher& ahead,
                                  DType scale_dtype, bool zero_points) {
    constexpr size_t kW = Ops::kWidth;
    const cpu::SpanLayout& layout = *a.layout;
    const size_t scale_bytes = DTypeSize(scale_dtype);
    const size_t head = scale_bytes + (zero_points ? 1 : 0);
    const size_t span = static_cast<size_t>(layout.span);
    typename Ops::Float sum[kTokens][kVectors];
#pragma GCC unroll 24
    for (size_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) sum[m][v] = Ops::Zero();
    }
    const uint8_t* w = a.weights;
    const uint8_t* x = a.values;
    const float* scales = a.scales;
    const int32_t* starts = a.starts;
    for (size_t k = 0; k < a.columns; k += span) {
      const size_t n = HWY_MIN(span, a.columns - k);
      // Scales first, in the order of memory: the hardware prefetches what is read in order.
      typename Ops::Float scale[kVectors];
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) {
        scale[v] = Ops::LoadScales(scale_dtype, w + (row + v * kW) * scale_bytes);
      }
      typename Ops::Sum acc[kTokens][kVectors];
      if (zero_points) {
#pragma GCC unroll 24
        for (size_t v = 0; v < kVectors; ++v) {
          const auto zero = Ops::LoadZeros(w + kRows * scale_bytes + row + v * kW, layout.offset());
#pragma GCC unroll 24
          for (size_t m = 0; m < kTokens; ++m) acc[m][v] = Ops::StartProduct(zero, starts[m]);
        }
      } else {
#pragma GCC unroll 24
        for (size_t m = 0; m < kTokens; ++m) {
#pragma GCC unroll 24
          for (size_t v = 0; v < kVectors; ++v) acc[m][v] = Ops::Start(starts[m]);
        }
      }
      const uint8_t* codes = w + kRows * head + row * 4;
      const size_t steps = kBits == 8 ? (n + 3) / 4 : (n + 7) / 8;
      constexpr size_t kUnroll = kTokens == 1 ? 1 : kPrefetchColumns / 4 / kQuads;
      size_t s = 0;
      for (; s + kUnroll <= steps; s += kUnroll) {
        if constexpr (kTokens >= kPrefetchTokens) ahead.Some();
        Steps<kUnroll, kTokens, kVectors, kRows>(codes, x, a.token_step, acc);
        codes += kUnroll * kRows * 4;
        x += kUnroll * kQuads * a.token_step;
      }
      for (; s < steps; ++s) {
        Steps<1, kTokens, kVectors, kRows>(codes, x, a.token_step, acc);
        codes += kRows * 4;
        x += kQuads * a.token_step;
      }
#pragma GCC unroll 24
      for (size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 24
        for (size_t m = 0; m < kTokens; ++m) {
          sum[m][v] = Ops::MulAdd(Ops::ToFloat(acc[m][v]), Ops::Mul(scale[v], Ops::Set(scales[m])),
                                  sum[m][v]);
        }
      }
      w = codes - row * 4;
      scales += a.tokens;
      starts += a.tokens;
    }
    FinishLeaf<Ops, kTokens, kVectors, kRows>(a, row, sum);
  }
};

// All rows of a panel's leaf for one tile of tokens.
template <class Ops, class Leaf, size_t kTokens, size_t kRows>
HWY_INLINE void TileRows(const LeafArgs& a) {
  constexpr size_t kAll = kRows / Ops::kWidth;
  constexpr size_t kFit = Leaf::kAccumulators / kTokens;
  constexpr size_t kVectors = kFit >= kAll ? kAll : kFit >= 4 ? 4 : kFit >= 2 ? 2 : 1;
  static_assert(kAll % kVectors == 0);
  Prefetcher ahead(a, kAll / kVectors * HWY_MAX(a.columns / Leaf::kPrefetchColumns, size_t{1}));
  for (size_t row = 0; row < kRows; row += kVectors * Ops::kWidth) {
    Leaf::template Sum<kTokens, kVectors, kRows>(a, row, ahead);
  }
}

// Not inlined, so that no arithmetic moves past a change of the rounding mode.
template <class Ops, class Leaf, size_t kTokens, size_t kRows>
HWY_NOINLINE void LeafTile(const LeafArgs& a) {
  TileRows<Ops, Leaf, kTokens, kRows>(a);
}

template <class Ops, class Leaf, size_t kRows>
HWY_INLINE void LeafTokens(const LeafArgs& a, size_t tokens) {
  switch (tokens) {
    case 1:
      return LeafTile<Ops, Leaf, 1, kRows>(a);
    case 2:
      return LeafTile<Ops, Leaf, 2, kRows>(a);
    case 3:
      return LeafTile<Ops, Leaf, 3, kRows>(a);
    case 4:
      return LeafTile<Ops, Leaf, 4, kRows>(a);
    case 5:
      if constexpr (Ops::kMostTokens >= 5) return LeafTile<Ops, Leaf, 5, kRows>(a);
      break;
    case 6:
      if constexpr (Ops::kMostTokens >= 6) return LeafTile<Ops, Leaf, 6, kRows>(a);
      break;
  }
}

// Stores a finished subtree's sums, top [tokens, panel rows].
template <size_t kRows>
HWY_INLINE void EmitSubtree(const cpu::LinearArgs& a, const float* HWY_RESTRICT top,
                            int64_t subtree, int64_t first_row, int64_t rows, int64_t first,
                            size_t tokens) {
  for (size_t t = 0; t < tokens; ++t) {
    float* y = a.y +
               (subtree * a.tokens + a.first_token + first + static_cast<int64_t>(t)) * a.rows +
               first_row;
    if (a.bias == nullptr) {
      std::memcpy(y, top + t * kRows, rows * sizeof(float));
    } else {
      for (int64_t r = 0; r < rows; ++r) y[r] = top[t * kRows + r] + a.bias[first_row + r];
    }
  }
}

// One panel for one token: memory is the limit, and every pause between loads costs time, so all
// leaves are one loop.
template <class Ops, class Leaf, size_t kRows>
void PanelToken(const cpu::LinearArgs& a, const std::byte* panel, int64_t first_row, int64_t rows,
                int64_t first, float* HWY_RESTRICT stack) {
  const cpu::Activations::Block block = a.x.block(*a.layout, first);
  const cpu::SpanLayout& layout = *a.layout;
  float* top = stack;  // first free level
  int64_t subtree = 0;
  LeafArgs leaf = {.layout = &layout,
                   .weights = reinterpret_cast<const uint8_t*>(panel),
                   .values = block.values,
                   .scales = block.scales,
                   .starts = block.starts,
                   .tokens = 1,
                   .token_step = 4,
                   .level = kRows};
  for (const LeafStep& step : a.schedule->steps) {
    leaf.columns = static_cast<size_t>(step.column_end - step.column_begin);
    leaf.top = top;
    leaf.merges = step.merges;
    TileRows<Ops, Leaf, 1, kRows>(leaf);
    leaf.weights += kRows * layout.leaf_bytes(step.column_end - step.column_begin);
    const int64_t spans = layout.spans_per_leaf();
    leaf.values += spans * layout.value_bytes();
    leaf.scales += spans;
    leaf.starts += spans;
    top -= step.merges * static_cast<int64_t>(kRows);
    if (step.emit) {
      EmitSubtree<kRows>(a, top, subtree++, first_row, rows, first, 1);
    } else {
      top += kRows;
    }
  }
}

// One panel for `tokens` <= kTokenBlock tokens from `first` of the activations.
// The stack of partial sums is [depth, tokens, panel rows].
template <class Ops, class Leaf, size_t kRows>
void PanelTokens(const cpu::LinearArgs& a, const std::byte* panel, int64_t first_row, int64_t rows,
                 int64_t first, size_t tokens, float* HWY_RESTRICT stack) {
  const cpu::Activations::Block block = a.x.block(*a.layout, first);
  const cpu::SpanLayout& layout = *a.layout;
  const size_t level = tokens * kRows;
  const size_t tiles = (tokens + Ops::kMostTokens - 1) / Ops::kMostTokens;
  LeafArgs leaf = {.layout = &layout, .tokens = tokens, .token_step = tokens * 4, .level = level};
  float* top = stack;  // first free level
  int64_t subtree = 0;
  const auto* weights = reinterpret_cast<const uint8_t*>(panel);
  for (const LeafStep& step : a.schedule->steps) {
    leaf.weights = weights;
    leaf.columns = static_cast<size_t>(step.column_end - step.column_begin);
    const size_t leaf_bytes = kRows * layout.leaf_bytes(step.column_end - step.column_begin);
    // Later blocks of tokens find the panel in the cache.
    leaf.ahead_bytes = first == 0 ? leaf_bytes / tiles : 0;
    const size_t span = static_cast<size_t>(layout.spans(step.column_begin)) * tokens;
    leaf.merges = Leaf::kFlushesDenormals ? 0 : step.merges;
    {
      const cpu::FlushDenormals flush(Leaf::kFlushesDenormals);
      // Tiles of even size; some have one token more.
      size_t t = 0;
      for (size_t i = 0; i < tiles; ++i) {
        const size_t n = tokens / tiles + (i < tokens % tiles ? 1 : 0);
        leaf.values = block.values + span * layout.value_bytes() + t * 4;
        leaf.scales = block.scales + span + t;
        leaf.starts = block.starts + span + t;
        leaf.ahead = weights + leaf_bytes + i * leaf.ahead_bytes;
        leaf.top = top + t * kRows;
        LeafTokens<Ops, Leaf, kRows>(leaf, n);
        t += n;
      }
    }
    weights += leaf_bytes;
    if constexpr (Leaf::kFlushesDenormals) {
      for (int32_t m = 0; m < step.merges; ++m) {
        const float* right = top - m * level;
        float* left = top - (m + 1) * level;
        for (size_t i = 0; i < level; i += Ops::kWidth) {
          Ops::Store(Ops::Add(Ops::Load(left + i), Ops::Load(right + i)), left + i);
        }
      }
    }
    top -= step.merges * level;
    if (!step.emit) {
      top += level;
      continue;
    }
    EmitSubtree<kRows>(a, top, subtree, first_row, rows, first, tokens);
    ++subtree;
  }
}

template <class Ops, class Leaf, size_t kRows>
HWY_INLINE void PanelBlock(const cpu::LinearArgs& a, const std::byte* panel, int64_t first_row,
                           int64_t rows, int64_t first, size_t tokens, float* HWY_RESTRICT stack) {
  if constexpr (!Leaf::kFlushesDenormals) {
    if (tokens == 1) {
      if (a.prefetches) {
        return PanelToken<Ops, typename Leaf::Ahead, kRows>(a, panel, first_row, rows, first,
                                                            stack);
      }
      return PanelToken<Ops, Leaf, kRows>(a, panel, first_row, rows, first, stack);
    }
  }
  PanelTokens<Ops, Leaf, kRows>(a, panel, first_row, rows, first, tokens, stack);
}

template <class Ops, class Leaf>
void LinearPanels(const cpu::LinearArgs& a, int64_t panel_begin, int64_t panel_end,
                  float* scratch) {
  int64_t segment_panel = 0;  // panels and rows of the segments before
  int64_t segment_row = 0;
  for (const cpu::Segment& segment : a.segments) {
    const cpu::PanelLayout layout(segment.rows);
    const int64_t begin = HWY_MAX(panel_begin - segment_panel, int64_t{0});
    const int64_t end = HWY_MIN(panel_end - segment_panel, layout.panels());
    for (int64_t p = begin; p < end; ++p) {
      const std::byte* panel = segment.panel(layout, p);
      const int64_t row = layout.first_row(p);
      const int64_t rows = HWY_MIN(layout.panel_rows(p), segment.rows - row);
      for (int64_t t = 0; t < a.x.tokens; t += cpu::kTokenBlock) {
        const size_t tokens = static_cast<size_t>(HWY_MIN(cpu::kTokenBlock, a.x.tokens - t));
        if (p < layout.full_panels) {
          PanelBlock<Ops, Leaf, cpu::kPanelRows>(a, panel, segment_row + row, rows, t, tokens,
                                                 scratch);
        } else {
          PanelBlock<Ops, Leaf, cpu::kTailRows>(a, panel, segment_row + row, rows, t, tokens,
                                                scratch);
        }
      }
    }
    segment_panel += layout.panels();
    segment_row += segment.rows;
  }
}
