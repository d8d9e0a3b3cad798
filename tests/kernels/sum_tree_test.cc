#include "kernels/base/sum_tree.h"

#include <gtest/gtest.h>

#include <random>

namespace tandem::kernels {
namespace {

float SumRecursively(const std::vector<float>& leaves, int64_t begin, int64_t end) {
  if (end - begin == 1) return leaves[begin];
  const int64_t middle = TreeMiddle(begin, end);
  return SumRecursively(leaves, begin, middle) + SumRecursively(leaves, middle, end);
}

// Adds leaves as a rank does, by its schedule.
std::vector<float> RunSchedule(const std::vector<float>& leaves, LeafRange owned) {
  const LeafSchedule schedule = MakeLeafSchedule(static_cast<int64_t>(leaves.size()), 1, owned);
  std::vector<float> stack, out;
  int32_t deepest = 1;
  for (const LeafStep& step : schedule.steps) {
    stack.push_back(leaves[owned.begin + step.column_begin]);
    deepest = std::max<int32_t>(deepest, static_cast<int32_t>(stack.size()));
    for (int32_t m = 0; m < step.merges; ++m) {
      const float right = stack.back();
      stack.pop_back();
      stack.back() += right;
    }
    if (step.emit) {
      out.push_back(stack.back());
      stack.pop_back();
    }
  }
  EXPECT_TRUE(stack.empty());
  EXPECT_EQ(deepest, schedule.max_depth);
  EXPECT_EQ(out.size(), static_cast<size_t>(schedule.subtrees));
  return out;
}

TEST(SumTree, AnyCutsGiveTheSameBits) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> value(-1, 1);
  for (int64_t n : {1, 2, 3, 5, 6, 7, 11, 32, 43, 96, 112}) {
    std::vector<float> leaves(n);
    for (float& leaf : leaves) leaf = value(random);
    const float expected = SumRecursively(leaves, 0, n);
    for (int64_t ranks = 1; ranks <= 9; ++ranks) {
      for (int round = 0; round < 20; ++round) {
        std::vector<int64_t> cuts = {0, n};
        for (int64_t i = 1; i < ranks; ++i) cuts.push_back(random() % (n + 1));
        std::sort(cuts.begin(), cuts.end());
        std::vector<LeafRange> nodes;
        std::vector<float> values;
        for (int64_t r = 0; r < ranks; ++r) {
          const LeafRange owned = {cuts[r], cuts[r + 1]};
          for (float v : RunSchedule(leaves, owned)) values.push_back(v);
          for (const LeafRange& node : OwnedSubtrees(n, owned)) nodes.push_back(node);
        }
        std::vector<const float*> pointers;
        for (const float& v : values) pointers.push_back(&v);
        float root = 0;
        FinishTree({0, n}, nodes, pointers, 1, &root);
        ASSERT_EQ(root, expected) << n << " leaves over " << ranks << " ranks";
      }
    }
  }
}

TEST(SumTree, EvenDegreesMeetWholeSubtrees) {
  // The 8B shapes: 112 leaves of the down projection, 32 heads.
  for (int64_t leaves : {112, 32}) {
    for (int64_t ranks : {1, 2, 4, 8}) {
      for (int64_t r = 0; r < ranks; ++r) {
        const LeafRange owned = {leaves * r / ranks, leaves * (r + 1) / ranks};
        EXPECT_EQ(OwnedSubtrees(leaves, owned).size(), 1u);
      }
    }
  }
}

TEST(SumTree, ShortLastLeaf) {
  const LeafSchedule schedule = MakeLeafSchedule(172, 32, {4, 6});
  ASSERT_EQ(schedule.steps.size(), 2u);
  EXPECT_EQ(schedule.steps[0].column_end, 32);
  EXPECT_EQ(schedule.steps[1].column_begin, 32);
  EXPECT_EQ(schedule.steps[1].column_end, 44);
}

TEST(SumTree, LongVectorsAreFinishedInChunks) {
  const int64_t count = 1000;
  std::vector<float> a(count), b(count), c(count), out(count);
  for (int64_t i = 0; i < count; ++i) {
    a[i] = 0.1f * i;
    b[i] = 1e6f / (i + 1);
    c[i] = -0.3f * i;
  }
  const std::vector<LeafRange> nodes = {{0, 1}, {1, 2}, {2, 3}};
  const std::vector<const float*> values = {a.data(), b.data(), c.data()};
  FinishTree({0, 3}, nodes, values, count, out.data());
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(out[i], (a[i] + b[i]) + c[i]);
}

}  // namespace
}  // namespace tandem::kernels
