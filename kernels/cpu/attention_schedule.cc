// Divides a step's attention among the threads.
#include <algorithm>
#include <numeric>

#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_scratch.h"

namespace tandem::kernels::cpu {
namespace {

// Tasks for each thread, at least: uneven ones even out.
constexpr int64_t kTasksPerThread = 8;

}  // namespace

void Attention::MakeTiles(const PagedAttentionArgs& a) {
  tiles_.clear();
  for (int64_t token = 0; token < a.tokens;) {
    // Neighbouring tokens of one sequence read the same K and V.
    int64_t same = 1;
    while (token + same < a.tokens && a.token_sequence[token + same] == a.token_sequence[token]) {
      ++same;
    }
    for (int64_t head = 0; head < a.q_heads;) {
      int64_t heads = 1;
      while (head + heads < a.q_heads && a.head_to_kv[head + heads] == a.head_to_kv[head]) ++heads;
      for (int64_t first = 0; first < heads; first += kMaxRows) {
        const int64_t few = std::min(kMaxRows, heads - first);
        const int64_t step = kMaxRows / few;
        for (int64_t t = 0; t < same; t += step) {
          AttentionTile tile = {.token = token + t,
                                .tokens = std::min(step, same - t),
                                .head = head + first,
                                .heads = few};
          for (int64_t i = 0; i < tile.tokens; ++i) {
            const int64_t context = a.positions[tile.token + i] + 1;
            tile.partitions = std::max(tile.partitions, (context + kPartition - 1) / kPartition);
          }
          tiles_.push_back(tile);
        }
      }
      head += heads;
    }
    token += same;
  }
}

// Rows of a tile multiply V of the tile's later tokens by weights of 0, which gives NaN where V is
// not finite. Tokens whose result has a NaN are computed again, each by itself.
void Attention::SeparateTokens(const PagedAttentionArgs& a, const AttentionTile& tile,
                               float* scratch) {
  for (int64_t t = tile.token; tile.tokens > 1 && t < tile.token + tile.tokens; ++t) {
    const float* out = a.out + (t * a.q_heads + tile.head) * a.head_dim;
    // Negative if a magnitude is above infinity, which means NaN. In integers, so that it
    // vectorizes.
    int32_t below = 0;
    for (int64_t i = 0; i < tile.heads * a.head_dim; ++i) {
      below |= 0x7f800000 - MagnitudeBits(out[i]);
    }
    if (below >= 0) continue;
    AttentionTile alone = tile;
    alone.token = t;
    alone.tokens = 1;
    alone.partitions = (a.positions[t] + kPartition) / kPartition;
    kernels_.attend_tile(a, alone, kernels_.partitions[static_cast<int>(a.cache.dtype)], scratch);
  }
}

void Attention::Run(ThreadPool& pool, const PagedAttentionArgs& a) {
  if (a.tokens == 0 || a.q_heads == 0) return;
  TANDEM_CHECK(a.head_dim <= KvCacheView::kMaxHeadDim);
  const PartitionKernels& kernels = kernels_.partitions[static_cast<int>(a.cache.dtype)];
  MakeTiles(a);
  const auto tiles = static_cast<int64_t>(tiles_.size());
  const size_t floats = ScratchLayout(a.cache).floats;
  for (std::vector<float>& scratch : scratch_) {
    if (scratch.size() < floats) scratch.resize(floats);
  }

  int64_t partitions = 0;
  for (const AttentionTile& tile : tiles_) partitions += tile.partitions;
  if (pool.size() == 1 || partitions == tiles || tiles >= kTasksPerThread * pool.size()) {
    // Long contexts first, so that no thread starts a long one when the others are nearly done.
    order_.resize(tiles);
    std::iota(order_.begin(), order_.end(), 0);
    std::sort(order_.begin(), order_.end(), [&](int64_t x, int64_t y) {
      return tiles_[x].partitions != tiles_[y].partitions
                 ? tiles_[x].partitions > tiles_[y].partitions
                 : x < y;
    });
    pool.ParallelFor(tiles, 1, [&](int thread, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        kernels_.attend_tile(a, tiles_[order_[i]], kernels, scratch_[thread].data());
        SeparateTokens(a, tiles_[order_[i]], scratch_[thread].data());
      }
    });
    return;
  }
  RunPartitions(pool, a, partitions);
}

void Attention::RunPartitions(ThreadPool& pool, const PagedAttentionArgs& a, int64_t partitions) {
  const PartitionKernels& kernels = kernels_.partitions[static_cast<int>(a.cache.dtype)];
  const auto tiles = static_cast<int64_t>(tiles_.size());
  order_.resize(tiles + 1);
  int64_t needed = 0;
  order_[0] = 0;
  for (int64_t t = 0; t < tiles; ++t) {
    AttentionTile& tile = tiles_[t];
    tile.partial = needed;
    needed += tile.partitions * tile.rows() * PartialFloats(a.cache);
    order_[t + 1] = order_[t] + tile.partitions;
  }
  if (partials_.size() < static_cast<size_t>(needed)) partials_.resize(2 * needed);
  pool.ParallelFor(partitions, 4, [&](int thread, int64_t begin, int64_t end) {
    int64_t t = std::upper_bound(order_.begin(), order_.end(), begin) - order_.begin() - 1;
    for (int64_t i = begin; i < end; ++i) {
      while (i >= order_[t + 1]) ++t;
      const AttentionTile& tile = tiles_[t];
      const int64_t partition = i - order_[t];
      kernels_.attend_partition(
          a, tile, kernels, partition,
          partials_.data() + tile.partial + partition * tile.rows() * PartialFloats(a.cache),
          scratch_[thread].data());
    }
  });
  pool.ParallelFor(tiles, 1, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      kernels_.combine_partitions(a, tiles_[t], partials_.data() + tiles_[t].partial,
                                  scratch_[thread].data());
      SeparateTokens(a, tiles_[t], scratch_[thread].data());
    }
  });
}

}  // namespace tandem::kernels::cpu
