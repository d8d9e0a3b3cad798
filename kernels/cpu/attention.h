// Paged attention on CPU threads: how work is cut, and the kernels of one cut.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/operations.h"

namespace tandem::kernels::cpu {

inline constexpr int64_t kCut = 256;     // positions between fixed cuts
inline constexpr int64_t kMaxRows = 32;  // (token, head) pairs of a tile
inline constexpr int64_t kCutBlocks = kCut / KvCacheView::kBlock;

// Strides between rows of scratch: constant, and not multiples of 4 KiB, so that
// rows do not fall upon the same lines of the first cache.
inline constexpr size_t kQueryStride = KvCacheView::kMaxHeadDim * sizeof(float) + 64;
inline constexpr size_t kScoreStride = kCut * sizeof(float) + 64;

// Of int8: what a row's codes are worth, and their sum.
struct CodeTerms {
  float scale = 0;
  int32_t sum = 0;
};

// One tile's rows over one cut. Queries are prepared for the cache's dtype, one
// after another: fp32; bf16; or 16-bit codes, four of a pack together.
struct CutArgs {
  size_t rows = 0;
  size_t positions = 0;  // of the cut, that any row sees
  size_t blocks = 0;
  KvCacheView cache;
  const std::byte* k[kCutBlocks] = {};  // runs
  const std::byte* v[kCutBlocks] = {};
  const std::byte* next[kCutBlocks] = {};  // runs to prefetch for the cut after this
  const std::byte* queries = nullptr;      // kQueryStride apart
  const CodeTerms* query_terms = nullptr;
  // fp32 scores, then exponentials in fp32 or bf16 or weights as codes, in place.
  std::byte* scores = nullptr;  // kScoreStride apart
  const CodeTerms* weight_terms = nullptr;
  float* values = nullptr;  // [rows, value_stride]
  size_t value_stride = 0;
};

// Dot products of one instruction set and dtype. Split puts `bytes` of codes, of
// queries or weights, into the form that the other two want.
struct CutKernels {
  void (*scores)(const CutArgs& args) = nullptr;
  void (*values)(const CutArgs& args) = nullptr;
  void (*split)(std::byte* codes, size_t bytes, bool queries) = nullptr;  // or null
};

// Consecutive tokens of one sequence, and query heads of one KV head.
struct AttentionTile {
  int64_t token = 0;
  int64_t tokens = 0;
  int64_t head = 0;
  int64_t heads = 0;
  int64_t cuts = 0;     // that the longest context has
  int64_t partial = 0;  // where its partial results begin, in floats
  int64_t rows() const { return tokens * heads; }
};

// Floats of scratch of the functions below.
size_t AttentionScratchFloats(const KvCacheView& cache);
// Floats of one row's result of one cut: maximum, sum, values.
inline int64_t PartialFloats(const KvCacheView& cache) { return cache.v_stride() + 16; }

using DotKernels = std::array<CutKernels, 4>;  // by KvDType

struct AttentionKernels {
  // The tile's rows over all their cuts.
  void (*attend_tile)(const PagedAttentionArgs& args, const AttentionTile& tile,
                      const CutKernels& kernels, float* scratch) = nullptr;
  // Over cut `cut` alone: partials [rows, PartialFloats].
  void (*attend_cut)(const PagedAttentionArgs& args, const AttentionTile& tile,
                     const CutKernels& kernels, int64_t cut, float* partials,
                     float* scratch) = nullptr;
  // Puts a tile's partial results [cuts, rows, PartialFloats] together.
  void (*combine_cuts)(const PagedAttentionArgs& args, const AttentionTile& tile,
                       const float* partials, float* scratch) = nullptr;
  DotKernels cuts = {};
};
AttentionKernels AttentionKernelsOf(const InstructionSet& set);
// Puts the kernels in place that use the dot-product instructions.
void UseDotInstructions(DotInstructions use, DotKernels& kernels);

// Schedules a step's attention over a thread pool. Owns scratch, which grows to
// the largest need.
class Attention {
 public:
  // threads: of the pool that Run will be given.
  Attention(int threads, const AttentionKernels& kernels) : kernels_(kernels), scratch_(threads) {}
  void Run(ThreadPool& pool, const PagedAttentionArgs& args);

 private:
  void MakeTiles(const PagedAttentionArgs& args);
  // Few long contexts: the threads take single cuts.
  void RunCuts(ThreadPool& pool, const PagedAttentionArgs& args, int64_t cuts);
  void SeparateTokens(const PagedAttentionArgs& args, const AttentionTile& tile, float* scratch);

  const AttentionKernels kernels_;
  std::vector<std::vector<float>> scratch_;  // of each thread
  std::vector<AttentionTile> tiles_;
  std::vector<int64_t> order_;  // tiles by falling length, or each tile's first piece
  std::vector<float> partials_;
};

}  // namespace tandem::kernels::cpu
