#include "runtime/engine/prefix_cache.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>

#include "kernels/base/check.h"
#include "runtime/model/step_input.h"

namespace tandem::engine {

using model::kBlockSize;

PrefixCache::PrefixCache(int32_t num_blocks, Hash hash) : hash_(hash) {
  TANDEM_CHECK(num_blocks > 0);
  entries_.resize(num_blocks);
  tokens_.resize(size_t{kBlockSize} * num_blocks);
  buckets_.assign(std::bit_ceil(static_cast<uint32_t>(num_blocks)), -1);
}

uint64_t PrefixCache::ChainHash(uint64_t parent, std::span<const int32_t> tokens) {
  return XXH64(tokens.data(), tokens.size_bytes(), parent);
}

int32_t PrefixCache::Find(const Chain& parent, std::span<const int32_t> tokens,
                          Chain* child) const {
  TANDEM_CHECK(tokens.size() == kBlockSize);
  const uint64_t hash = hash_(parent.hash, tokens);
  int32_t block = buckets_[hash & (buckets_.size() - 1)];
  for (; block >= 0; block = entries_[block].next) {
    const Entry& entry = entries_[block];
    if (entry.hash != hash || entry.parent != parent.id) continue;
    if (!std::equal(tokens.begin(), tokens.end(), &tokens_[size_t{kBlockSize} * block])) continue;
    *child = {.id = entry.id, .hash = hash};
    return block;
  }
  return -1;
}

PrefixCache::Chain PrefixCache::Insert(const Chain& parent, std::span<const int32_t> tokens,
                                       int32_t block) {
  Chain child;
  if (Find(parent, tokens, &child) >= 0) return child;
  TANDEM_CHECK(!Contains(block));
  child = {.id = next_id_++, .hash = hash_(parent.hash, tokens)};
  int32_t& bucket = buckets_[child.hash & (buckets_.size() - 1)];
  entries_[block] = {.id = child.id, .hash = child.hash, .parent = parent.id, .next = bucket};
  std::copy(tokens.begin(), tokens.end(), &tokens_[size_t{kBlockSize} * block]);
  bucket = block;
  return child;
}

void PrefixCache::Move(int32_t from, int32_t to) {
  TANDEM_CHECK(Contains(from) && !Contains(to));
  int32_t* link = &buckets_[entries_[from].hash & (buckets_.size() - 1)];
  while (*link != from) link = &entries_[*link].next;
  *link = to;
  entries_[to] = entries_[from];
  entries_[from] = Entry{};
  std::copy_n(&tokens_[size_t{kBlockSize} * from], kBlockSize, &tokens_[size_t{kBlockSize} * to]);
}

void PrefixCache::Erase(int32_t block) {
  TANDEM_CHECK(Contains(block));
  int32_t* link = &buckets_[entries_[block].hash & (buckets_.size() - 1)];
  while (*link != block) link = &entries_[*link].next;
  *link = entries_[block].next;
  entries_[block] = Entry{};
}

}  // namespace tandem::engine
