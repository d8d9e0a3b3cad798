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
  }
}

TEST(BlockManagerTest, BlocksForCountsBegunBlocks) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(16), 1);
  EXPECT_EQ(BlocksFor(17), 2);
}

}  // namespace
}  // namespace tandem::engine
