// Finds blocks of the KV cache that already hold the keys and values of a prefix. A block's content
// depends on all tokens before it, so the key is a chain: xxh64 of the block's token ids, seeded
// with the parent's hash.
//
// A hash only finds candidates. An entry is returned if its tokens are equal and its parent is the
// entry found before it (compared by an id that is never used twice). By induction the whole prefix
// is equal: a collision costs time, never a wrong block.
//
// Single-threaded; memory is taken once, at construction.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::engine {

class PrefixCache {
 public:
  // A place in a chain: after no block (the default) or after one entry.
  struct Chain {
    uint64_t id = 0;  // of the entry; 0 is the root
    uint64_t hash = 0;
  };
  using Hash = uint64_t (*)(uint64_t parent, std::span<const int32_t> tokens);

  // `hash` is replaced only by tests that force collisions.
  explicit PrefixCache(int32_t num_blocks, Hash hash = &ChainHash);

  // The block that continues `parent` with these kBlockSize tokens; -1 when
  // there is none. Sets *child when found.
  int32_t Find(const Chain& parent, std::span<const int32_t> tokens, Chain* child) const;

  // Enters a block whose keys and values are complete, and returns its place.
  // Where another block already has the same content that entry stays, its
  // place is returned, and `block` is not cached.
  Chain Insert(const Chain& parent, std::span<const int32_t> tokens, int32_t block);

  bool Contains(int32_t block) const { return entries_[block].id != 0; }

  // Forgets a block before its memory is used for other tokens. Entries below
  // it can no longer be reached; they age and are evicted like any other.
  void Erase(int32_t block);

  // The content of a cached block is now in another, which is not cached.
  void Move(int32_t from, int32_t to);

  static uint64_t ChainHash(uint64_t parent, std::span<const int32_t> tokens);

 private:
  struct Entry {
    uint64_t id = 0;  // 0: not cached
    uint64_t hash = 0;
    uint64_t parent = 0;
    int32_t next = -1;  // in the bucket
  };

  Hash hash_;
  uint64_t next_id_ = 1;
  std::vector<Entry> entries_;    // [blocks]
  std::vector<int32_t> tokens_;   // [blocks, kBlockSize]
  std::vector<int32_t> buckets_;  // first block of each, a power of two
};

}  // namespace tandem::engine
