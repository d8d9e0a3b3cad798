#include "runtime/engine/prefix_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

namespace tandem::engine {
namespace {

using Chain = PrefixCache::Chain;

std::vector<int32_t> Tokens(int32_t first) {
  std::vector<int32_t> tokens(16);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

uint64_t AlwaysTheSame(uint64_t, std::span<const int32_t>) { return 42; }

TEST(PrefixCacheTest, FindsAChainBlockByBlock) {
  PrefixCache cache(4);
  const Chain first = cache.Insert({}, Tokens(0), 3);
  const Chain second = cache.Insert(first, Tokens(16), 1);
  Chain at;
  EXPECT_EQ(cache.Find({}, Tokens(0), &at), 3);
  EXPECT_EQ(at.id, first.id);
  EXPECT_EQ(cache.Find(at, Tokens(16), &at), 1);
  EXPECT_EQ(at.id, second.id);
  EXPECT_EQ(cache.Find(at, Tokens(16), &at), -1);
  EXPECT_EQ(cache.Find({}, Tokens(16), &at), -1);  // the same tokens after another prefix
}

TEST(PrefixCacheTest, EqualContentStaysWithTheFirstBlock) {
  PrefixCache cache(4);
  const Chain first = cache.Insert({}, Tokens(0), 0);
  const Chain again = cache.Insert({}, Tokens(0), 1);
  EXPECT_EQ(first.id, again.id);
  EXPECT_TRUE(cache.Contains(0));
  EXPECT_FALSE(cache.Contains(1));
}

TEST(PrefixCacheTest, CollidingHashesNeverReturnAnotherContent) {
  PrefixCache cache(8, &AlwaysTheSame);
  const Chain a = cache.Insert({}, Tokens(0), 0);
  const Chain b = cache.Insert({}, Tokens(100), 1);
  cache.Insert(a, Tokens(500), 2);
  cache.Insert(b, Tokens(500), 3);  // equal tokens, equal hash, another parent
  Chain at;
  EXPECT_EQ(cache.Find({}, Tokens(100), &at), 1);
  EXPECT_EQ(cache.Find(at, Tokens(500), &at), 3);
  EXPECT_EQ(cache.Find(a, Tokens(500), &at), 2);
  EXPECT_EQ(cache.Find({}, Tokens(500), &at), -1);
  EXPECT_EQ(cache.Find(a, Tokens(501), &at), -1);
}

TEST(PrefixCacheTest, AnErasedParentIsNotReplacedByABlockOfTheSameNumber) {
  PrefixCache cache(8, &AlwaysTheSame);
  const Chain a = cache.Insert({}, Tokens(0), 0);
  cache.Insert(a, Tokens(500), 2);
  cache.Erase(0);
  // Block 0 now holds another prefix, with the same hash: block 2 is not below it.
  const Chain other = cache.Insert({}, Tokens(100), 0);
  Chain at;
  EXPECT_EQ(cache.Find(other, Tokens(500), &at), -1);
}

// Against a map from whole prefixes, with a hash of two bits.
TEST(PrefixCacheTest, AgreesWithAMapOfPrefixes) {
  constexpr int32_t kBlocks = 30;
  const auto two_bits = [](uint64_t parent, std::span<const int32_t> tokens) -> uint64_t {
    return (parent + tokens[0]) & 3;
  };
  PrefixCache cache(kBlocks, two_bits);
  std::map<std::vector<int32_t>, int32_t> blocks;  // prefix -> block
  std::vector<std::vector<int32_t>> prefix_of(kBlocks);
  std::mt19937 random(11);
  int hits = 0;
  for (int i = 0; i < 20000; ++i) {
    // Walk down a random path of blocks out of 3, then add what comes next.
    Chain at;
    std::vector<int32_t> prefix;
    for (;;) {
      const auto digit = static_cast<int32_t>(random() % 3);
      std::vector<int32_t> longer = prefix;
      longer.push_back(digit);
      const std::vector<int32_t> tokens(16, digit);
      const int32_t found = cache.Find(at, tokens, &at);
      if (found >= 0) {
        ASSERT_EQ(blocks.at(longer), found);
        ++hits;
        prefix = longer;
        continue;
      }
      ASSERT_EQ(blocks.count(longer), 0u);
      const auto block = static_cast<int32_t>(random() % kBlocks);
      // Leaves go before their parents, as the block manager has it.
      bool parent = false;
      for (const auto& [other, unused] : blocks) {
        parent |= cache.Contains(block) && other.size() > prefix_of[block].size() &&
                  std::equal(prefix_of[block].begin(), prefix_of[block].end(), other.begin());
      }
      if (parent || (cache.Contains(block) && prefix_of[block] == prefix)) break;
      if (cache.Contains(block)) {
        blocks.erase(prefix_of[block]);
        cache.Erase(block);
      }
      cache.Insert(at, tokens, block);
      blocks[longer] = block;
      prefix_of[block] = longer;
      break;
    }
  }
  EXPECT_GT(hits, 1000);
}

}  // namespace
}  // namespace tandem::engine
