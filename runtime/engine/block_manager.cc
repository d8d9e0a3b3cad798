#include "runtime/engine/block_manager.h"

#include <algorithm>
#include <functional>

#include "kernels/base/check.h"
#include "runtime/model/step_input.h"

namespace tandem::engine {

BlockManager::BlockManager(int32_t num_blocks, PrefixCache* cache) : cache_(cache) {
  TANDEM_CHECK(num_blocks > 0);
  ref_counts_.assign(num_blocks, 0);
  free_.reserve(num_blocks);
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
  next_.assign(num_blocks + 1, -1);
  previous_.assign(num_blocks + 1, -1);
  next_[num_blocks] = previous_[num_blocks] = num_blocks;
}

int32_t BlockManager::ref_count(int32_t block) const {
  TANDEM_CHECK(block >= 0 && block < num_blocks());
  return ref_counts_[block];
}

int32_t BlockManager::Allocate() {
  int32_t block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else {
    block = next_[num_blocks()];
    if (block == num_blocks()) return -1;
    Unlink(block);
    cache_->Erase(block);
  }
  TANDEM_CHECK(ref_counts_[block] == 0);
  ref_counts_[block] = 1;
  ++num_used_;
  highest_ = std::max(highest_, block);
  return block;
}

void BlockManager::Retain(int32_t block) {
  TANDEM_CHECK(block >= 0 && block < num_blocks());
  if (ref_counts_[block]++ > 0) return;
  TANDEM_CHECK(cache_ != nullptr && cache_->Contains(block));
  Unlink(block);
  ++num_used_;
}

void BlockManager::Release(int32_t block) {
  TANDEM_CHECK(block >= 0 && block < num_blocks() && ref_counts_[block] > 0);
  if (--ref_counts_[block] > 0) return;
  --num_used_;
  if (cache_ == nullptr || !cache_->Contains(block)) {
    free_.push_back(block);
    while (highest_ >= 0 && IsFree(highest_)) --highest_;
    return;
  }
  const int32_t ring = num_blocks();
  next_[block] = ring;
  previous_[block] = previous_[ring];
  next_[previous_[ring]] = block;
  previous_[ring] = block;
}

bool BlockManager::IsFree(int32_t block) const {
  return ref_counts_[block] == 0 && (cache_ == nullptr || !cache_->Contains(block));
}

void BlockManager::Compact(int32_t max_moves, std::vector<BlockMove>* moves) {
  // The lowest last, so that they are also the next to be given out.
  std::sort(free_.begin(), free_.end(), std::greater<>());
  int32_t left = max_moves;
  while (left-- > 0 && !free_.empty() && free_.back() < highest_) {
    const int32_t from = highest_;
    const int32_t to = free_.back();
    free_.pop_back();
    MoveTo(from, to);
    moves->push_back({from, to});
    free_.insert(std::lower_bound(free_.begin(), free_.end(), from, std::greater<>()), from);
    while (highest_ >= 0 && IsFree(highest_)) --highest_;
  }
}

void BlockManager::MoveTo(int32_t from, int32_t to) {
  TANDEM_CHECK(!IsFree(from) && IsFree(to));
  if (cache_ != nullptr && cache_->Contains(from)) cache_->Move(from, to);
  if (ref_counts_[from] > 0) {
    std::swap(ref_counts_[from], ref_counts_[to]);
    return;
  }
  next_[to] = next_[from];
  previous_[to] = previous_[from];
  next_[previous_[to]] = previous_[next_[to]] = to;
  next_[from] = previous_[from] = -1;
}

void BlockManager::Unlink(int32_t block) {
  TANDEM_CHECK(next_[block] >= 0 && previous_[block] >= 0);
  next_[previous_[block]] = next_[block];
  previous_[next_[block]] = previous_[block];
  next_[block] = previous_[block] = -1;
}

int32_t BlocksFor(int32_t tokens) { return (tokens + model::kBlockSize - 1) / model::kBlockSize; }

}  // namespace tandem::engine
