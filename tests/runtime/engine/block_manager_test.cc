#include "runtime/engine/block_manager.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "runtime/engine/prefix_cache.h"

namespace tandem::engine {
namespace {

std::vector<int32_t> Tokens(int32_t first) {
  std::vector<int32_t> tokens(16);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(BlockManagerTest, GivesEachBlockOnceAndTakesItBack) {
  BlockManager manager(3, nullptr);
  EXPECT_EQ(manager.Allocate(), 0);
  EXPECT_EQ(manager.Allocate(), 1);
  EXPECT_EQ(manager.Allocate(), 2);
  EXPECT_EQ(manager.Allocate(), -1);
  EXPECT_EQ(manager.num_used(), 3);
  manager.Release(1);
  EXPECT_EQ(manager.num_available(), 1);
  EXPECT_EQ(manager.Allocate(), 1);
}

TEST(BlockManagerTest, SharedBlockIsFreeWithItsLastHolder) {
  BlockManager manager(1, nullptr);
  const int32_t block = manager.Allocate();
  manager.Retain(block);
  manager.Release(block);
  EXPECT_EQ(manager.ref_count(block), 1);
  EXPECT_EQ(manager.Allocate(), -1);
  manager.Release(block);
  EXPECT_EQ(manager.Allocate(), block);
}

TEST(BlockManagerTest, CachedBlocksAreEvictedLeastRecentlyUsedFirst) {
  PrefixCache cache(3);
  BlockManager manager(3, &cache);
  for (int32_t i = 0; i < 3; ++i) cache.Insert({}, Tokens(100 * i), manager.Allocate());
  manager.Release(2);
  manager.Release(0);
  manager.Release(1);
  EXPECT_EQ(manager.num_used(), 0);
  manager.Retain(2);  // used again: no longer a candidate
  EXPECT_EQ(manager.num_used(), 1);
  EXPECT_EQ(manager.Allocate(), 0);
  EXPECT_FALSE(cache.Contains(0));
  EXPECT_TRUE(cache.Contains(1));
  manager.Release(2);
  EXPECT_EQ(manager.Allocate(), 1);
  EXPECT_EQ(manager.Allocate(), 2);
  EXPECT_EQ(manager.Allocate(), -1);
}

TEST(BlockManagerTest, FreeBlocksGoBeforeCachedOnes) {
  PrefixCache cache(2);
  BlockManager manager(2, &cache);
  const int32_t cached = manager.Allocate();
  cache.Insert({}, Tokens(0), cached);
  const int32_t plain = manager.Allocate();
  manager.Release(cached);
  manager.Release(plain);
  EXPECT_EQ(manager.Allocate(), plain);
  EXPECT_TRUE(cache.Contains(cached));
}

TEST(BlockManagerTest, CountsAddUpUnderRandomUse) {
  std::mt19937 random(3);
  PrefixCache cache(20);
  BlockManager manager(20, &cache);
  std::vector<int32_t> held;  // one entry a reference
  for (int i = 0; i < 20000; ++i) {
    if (random() % 16 == 0) {
      std::vector<BlockMove> moves;
      manager.Compact(static_cast<int32_t>(random() % 5), &moves);
      for (const BlockMove& move : moves) {
        ASSERT_GT(move.from, move.to);
        std::replace(held.begin(), held.end(), move.from, move.to);
      }
    }
    switch (random() % 4) {
      case 0:
        if (const int32_t block = manager.Allocate(); block >= 0) {
          ASSERT_EQ(std::count(held.begin(), held.end(), block), 0);
          held.push_back(block);
          if (random() % 2 == 0) cache.Insert({}, Tokens(i), block);
        }
        break;
      case 1:
        if (const auto block = static_cast<int32_t>(random() % 20);
            cache.Contains(block) || manager.ref_count(block) > 0) {
          manager.Retain(block);
          held.push_back(block);
        }
        break;
      default:
        if (!held.empty()) {
          std::swap(held[random() % held.size()], held.back());
          manager.Release(held.back());
          held.pop_back();
        }
    }
    std::vector<int32_t> unique = held;
    std::sort(unique.begin(), unique.end());
    unique.erase(std::unique(unique.begin(), unique.end()), unique.end());
    ASSERT_EQ(manager.num_used(), static_cast<int32_t>(unique.size()));
    int32_t occupied = 0, span = 0;
    for (int32_t block = 0; block < 20; ++block) {
      if (manager.ref_count(block) == 0 && !cache.Contains(block)) continue;
      ++occupied;
      span = block + 1;
    }
    ASSERT_EQ(manager.num_occupied(), occupied);
    ASSERT_EQ(manager.span(), span);
  }
}

// What a block holds follows it, whoever has it: a holder or the cache.
TEST(BlockManagerTest, CompactionFillsTheLowestHolesFromTheTop) {
  PrefixCache cache(8);
  BlockManager manager(8, &cache);
  for (int32_t i = 0; i < 7; ++i) EXPECT_EQ(manager.Allocate(), i);
  cache.Insert({}, Tokens(50), 5);
  manager.Release(5);  // cached, held by nobody
  manager.Retain(6);   // held twice
  manager.Release(0);
  manager.Release(2);
  manager.Release(3);
  EXPECT_EQ(manager.span(), 7);
  EXPECT_EQ(manager.num_occupied(), 4);
  std::vector<BlockMove> moves;
  manager.Compact(1, &moves);
  ASSERT_EQ(moves.size(), 1u);
  EXPECT_EQ(moves[0].from, 6);
  EXPECT_EQ(moves[0].to, 0);
  EXPECT_EQ(manager.ref_count(0), 2);
  EXPECT_EQ(manager.ref_count(6), 0);
  manager.Compact(10, &moves);
  ASSERT_EQ(moves.size(), 3u);  // 5 to 2 and 4 to 3
  EXPECT_EQ(manager.span(), 4);
  EXPECT_EQ(manager.num_occupied(), 4);
  PrefixCache::Chain child;
  EXPECT_EQ(cache.Find({}, Tokens(50), &child), 2);
  // The next are given from below, the cached one last.
  EXPECT_EQ(manager.Allocate(), 4);
  for (int32_t i = 5; i < 8; ++i) EXPECT_EQ(manager.Allocate(), i);
  EXPECT_EQ(manager.Allocate(), 2);
  EXPECT_EQ(manager.Allocate(), -1);
  manager.Compact(10, &moves);
  EXPECT_EQ(moves.size(), 3u);  // nothing to do
}

TEST(BlockManagerTest, BlocksForCountsBegunBlocks) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(16), 1);
  EXPECT_EQ(BlocksFor(17), 2);
}

}  // namespace
}  // namespace tandem::engine
