// Paged attention on CPU threads: how work is divided, and the kernels of one partition.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/operations.h"

namespace tandem::kernels::cpu {

inline constexpr int64_t kPartition = 256;  // positions of a context that are added together
inline constexpr int64_t kMaxRows = 32;     // (token, head) pairs of a tile
inline constexpr int64_t kPartitionBlocks = kPartition / KvCacheView::kBlock;

// Strides between rows of scratch: constant, and not multiples of 4 KiB, so that
// rows do not fall upon the same lines of the first cache.
inline constexpr size_t kQueryStride = KvCacheView::kMaxHeadDim * sizeof(float) + 64;
inline constexpr size_t kScoreStride = kPartition * sizeof(float) + 64;

// Of int8: the scale of a row's codes, and their sum.
struct CodeTerms {
  float scale = 0;
  int32_t sum = 0;
};

// One tile's rows over one partition. Queries are prepared for the cache's dtype, one
// after another: fp32; bf16; or 16-bit codes, four of a pack together.
struct PartitionArgs {
  size_t rows = 0;
  size_t positions = 0;  // of the partition, that any row sees
  size_t blocks = 0;
  KvCacheView cache;
  const std::byte* k[kPartitionBlocks] = {};  // of the KV head, in each block
  const std::byte* v[kPartitionBlocks] = {};
  const std::byte* next[kPartitionBlocks] = {};  // K of the next partition, to prefetch
  const std::byte* queries = nullptr;            // kQueryStride apart
  const CodeTerms* query_terms = nullptr;
  // fp32 scores, then exponentials in fp32 or bf16 or weights as codes, in place.
  std::byte* scores = nullptr;  // kScoreStride apart
  const CodeTerms* weight_terms = nullptr;
  float* values = nullptr;  // [rows, value_stride]
  size_t value_stride = 0;
};

// Dot products of one instruction set and dtype. Split puts `bytes` of codes, of
// queries or weights, into the form that the other two want.
struct PartitionKernels {
  void (*scores)(const PartitionArgs& args) = nullptr;
  void (*values)(const PartitionArgs& args) = nullptr;
  void (*split)(std::byte* codes, size_t bytes, bool queries) = nullptr;  // or null
};

// Consecutive tokens of one sequence, and query heads of one KV head.
struct AttentionTile {
  int64_t token = 0;
  int64_t tokens = 0;
  int64_t head = 0;
  int64_t heads = 0;
  int64_t partitions = 0;  // that the longest context has
  int64_t partial = 0;     // where its partial results begin, in floats
  int64_t rows() const { return tokens * heads; }
};

// Floats of one row's result of one partition: maximum, sum, values.
inline int64_t PartialFloats(const KvCacheView& cache) { return cache.v_stride() + 16; }

using DotKernels = std::array<PartitionKernels, 4>;  // by KvDType

struct AttentionKernels {
  // The tile's rows over all their partitions.
  void (*attend_tile)(const PagedAttentionArgs& args, const AttentionTile& tile,
                      const PartitionKernels& kernels, float* scratch) = nullptr;
  // Over partition `partition` alone: partials [rows, PartialFloats].
  void (*attend_partition)(const PagedAttentionArgs& args, const AttentionTile& tile,
                           const PartitionKernels& kernels, int64_t partition, float* partials,
                           float* scratch) = nullptr;
  // Combines a tile's partial results [partitions, rows, PartialFloats].
  void (*combine_partitions)(const PagedAttentionArgs& args, const AttentionTile& tile,
                             const float* partials, float* scratch) = nullptr;
  DotKernels partitions = {};
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
  // Few long contexts: the threads take single partitions.
  void RunPartitions(ThreadPool& pool, const PagedAttentionArgs& args, int64_t partitions);
  void SeparateTokens(const PagedAttentionArgs& args, const AttentionTile& tile, float* scratch);

  const AttentionKernels kernels_;
  std::vector<std::vector<float>> scratch_;  // of each thread
  std::vector<AttentionTile> tiles_;
  std::vector<int64_t> order_;  // tiles by falling length, or each tile's first task
  std::vector<float> partials_;
};

}  // namespace tandem::kernels::cpu
