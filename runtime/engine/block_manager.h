// Which sequences hold which blocks of the paged KV cache: reference counts over block ids, no
// tensors. Single-threaded (the engine's thread).
//
// Only full blocks are shared, so a block with more than one holder is never written and nothing
// has to be copied on write: a choice that shares a prompt takes references to the prompt's full
// blocks and recomputes the tokens of the last, partly filled block (at most kBlockSize) in its own
// block.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/prefix_cache.h"

namespace tandem::engine {

struct BlockMove {
  int32_t from = 0;
  int32_t to = 0;
};

class BlockManager {
 public:
  // `cache` (not owned, may be null) knows which blocks hold reusable content. Such blocks stay
  // when their last holder releases them, and are evicted least recently used first.
  BlockManager(int32_t num_blocks, PrefixCache* cache);

  int32_t num_blocks() const { return static_cast<int32_t>(ref_counts_.size()); }
  int32_t num_used() const { return num_used_; }
  // What Allocate can still give: free blocks and cached ones without holders.
  int32_t num_available() const { return num_blocks() - num_used_; }
  // Held, or cached without holders.
  int32_t num_occupied() const { return num_blocks() - static_cast<int32_t>(free_.size()); }
  // Blocks up to the highest that is occupied.
  int32_t span() const { return highest_ + 1; }
  int32_t ref_count(int32_t block) const;

  // Takes a block with one holder; a free one, else the least recently used
  // cached one, which leaves the cache. -1 when every block is held.
  int32_t Allocate();

  // Adds a holder, also to a cached block that had none.
  void Retain(int32_t block);

  // Drops a holder. Release a sequence's blocks last to first: a chain is then
  // evicted from its end and what remains can still be matched.
  void Release(int32_t block);

  // Moves up to max_moves of the highest occupied blocks into the lowest free ones, and appends the
  // moves to `moves`. The caller renames the blocks in its tables and has their content copied
  // before anything is written. No block is both source and target.
  void Compact(int32_t max_moves, std::vector<BlockMove>* moves);

 private:
  bool IsFree(int32_t block) const;
  void MoveTo(int32_t from, int32_t to);
  void Unlink(int32_t block);

  PrefixCache* cache_;
  int32_t num_used_ = 0;
  int32_t highest_ = -1;             // occupied
  std::vector<int32_t> ref_counts_;  // [blocks]
  std::vector<int32_t> free_;        // a stack; neither held nor cached
  // Cached blocks without holders as a ring through index num_blocks:
  // next_[num_blocks] is the least recently used.
  std::vector<int32_t> next_;      // [blocks + 1]
  std::vector<int32_t> previous_;  // [blocks + 1]
};

// Blocks that `tokens` tokens fill or begin.
int32_t BlocksFor(int32_t tokens);

}  // namespace tandem::engine
