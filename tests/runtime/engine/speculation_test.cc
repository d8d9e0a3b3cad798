#include "runtime/engine/speculation.h"

#include <gtest/gtest.h>

#include "runtime/engine/draft_index.h"

namespace tandem::engine {
namespace {

std::vector<int32_t> Range(int32_t begin, int32_t end) {
  std::vector<int32_t> tokens;
  for (int32_t token = begin; token < end; ++token) tokens.push_back(token);
  return tokens;
}

TEST(DraftIndex, FindsNothingInTokensThatDoNotRepeat) {
  DraftIndex index;
  std::vector<int32_t> tokens;
  for (int32_t token = 0; token < 100; ++token) {
    tokens.push_back(token);
    EXPECT_EQ(index.Find(tokens).length, 0);
  }
}

TEST(DraftIndex, FindsWhatFollowedTheSameTokens) {
  std::vector<int32_t> tokens = Range(10, 40);
  for (const int32_t token : {20, 21, 22}) tokens.push_back(token);
  DraftIndex index;
  const DraftIndex::Match match = index.Find(tokens);
  EXPECT_EQ(match.length, 3);
  EXPECT_EQ(tokens[match.next], 23);
}

TEST(DraftIndex, PrefersTheLongestMatchThenTheLatest) {
  DraftIndex index;
  // Behind "1 2": 50 where "9 1 2" stands, then twice after other tokens.
  const std::vector<int32_t> tokens = {9, 1, 2, 50, 7, 1, 2, 60, 8, 1, 2, 70, 9, 1, 2};
  DraftIndex::Match match = index.Find(tokens);
  EXPECT_EQ(match.length, 3);
  EXPECT_EQ(tokens[match.next], 50);
  const std::vector<int32_t> others = {9, 1, 2, 50, 7, 1, 2, 60, 8, 1, 2, 70, 5, 1, 2};
  DraftIndex fresh;
  match = fresh.Find(others);
  EXPECT_EQ(match.length, 2);
  EXPECT_EQ(others[match.next], 70);
}

TEST(DraftIndex, GrowsWithTheSequence) {
  DraftIndex index;
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 20000; ++i) {
    tokens.push_back(i % 5000 + i / 5000 * (i % 7 == 0));  // nearly the same four times
    const DraftIndex::Match match = index.Find(tokens);
    for (int32_t k = 0; k < match.length; ++k) {
      ASSERT_EQ(tokens[match.next - 1 - k], tokens[tokens.size() - 1 - k]);
    }
    if (i > 6000 && i % 7 == 6 && i % 5000 > 10) {
      ASSERT_GE(match.length, 2) << i;
    }
  }
}

TEST(StepCost, InterpolatesBetweenWhatWasSeen) {
  StepCost cost;
  EXPECT_EQ(cost.Of(1), 0);
  cost.Add(1, 1.0);
  EXPECT_EQ(cost.Of(1), 1.0);
  EXPECT_EQ(cost.Of(5), 2.0);  // nothing larger is known
  cost.Add(9, 3.0);
  EXPECT_DOUBLE_EQ(cost.Of(5), 2.0);
  EXPECT_EQ(cost.Of(9), 3.0);
  cost.Add(100, 10.0);
  EXPECT_DOUBLE_EQ(cost.Of(200), 20.0);
  EXPECT_GT(cost.Of(64), cost.Of(9));
  EXPECT_LT(cost.Of(64), cost.Of(65) + 1e-9);
}

TEST(DraftRates, FollowWhatHappensAndReturnWhereNothingIsTried) {
  DraftRates rates;
  const double first = rates.Of(2);
  for (int i = 0; i < 100; ++i) rates.Add(2, 4, 0);
  EXPECT_LT(rates.Of(2), 0.01);
  EXPECT_GT(rates.Of(32), 0.9);  // another group
  for (int i = 0; i < 2000; ++i) rates.Skip(2);
  EXPECT_NEAR(rates.Of(2), first, 0.01);
  for (int i = 0; i < 100; ++i) rates.Add(2, 4, 4);
  EXPECT_GT(rates.Of(2), 0.98);
}

class SpeculationTest : public testing::Test {
 protected:
  // A sequence whose last tokens occurred before, ready to be sampled.
  SpeculationTest() : sequence_(1, 0, 1, prompt_, 100) {
    sequence_.max_drafts = 8;
    sequence_.draft_index.emplace();
  }

  int32_t Drafts(Speculation& speculation, int32_t tokens, int32_t rows, bool samples = true) {
    sequence_.KeepDrafts(0);
    const ScheduledSequence entry = {.sequence = &sequence_, .num_tokens = 1, .samples = samples};
    speculation.AddDrafts(std::span(&entry, 1), tokens, rows);
    return sequence_.num_drafts();
  }

  const std::vector<int32_t> prompt_ = {1, 2, 3, 4, 5, 6, 1, 2, 3};
  Sequence sequence_;
};

TEST_F(SpeculationTest, DraftsWhatFollowedAndRepeatsItself) {
  Speculation speculation({.max_drafts = 8, .adaptive = false});
  EXPECT_EQ(Drafts(speculation, 100, 100), 8);
  const std::vector<int32_t> expected = {4, 5, 6, 1, 2, 3, 4, 5};
  const auto drafts = sequence_.tokens_and_drafts().subspan(prompt_.size());
  EXPECT_EQ(std::vector<int32_t>(drafts.begin(), drafts.end()), expected);
  EXPECT_EQ(sequence_.num_tokens(), 9);
}

TEST_F(SpeculationTest, StaysWithinEveryLimit) {
  Speculation speculation({.max_drafts = 6, .adaptive = false});
  EXPECT_EQ(Drafts(speculation, 100, 100), 6);
  EXPECT_EQ(Drafts(speculation, 3, 100), 3);
  EXPECT_EQ(Drafts(speculation, 100, 2), 2);
  EXPECT_EQ(Drafts(speculation, 100, 100, /*samples=*/false), 0);
  sequence_.max_drafts = 1;
  EXPECT_EQ(Drafts(speculation, 100, 100), 1);
  sequence_.max_drafts = 0;
  EXPECT_EQ(Drafts(speculation, 100, 100), 0);
}

TEST_F(SpeculationTest, NoTokenIsComputedThatTheAnswerCannotHave) {
  Speculation speculation({.max_drafts = 8, .adaptive = false});
  Sequence sequence(1, 0, 1, prompt_, 12);  // three more tokens; the last is not computed
  sequence.max_drafts = 8;
  sequence.draft_index.emplace();
  const ScheduledSequence entry = {.sequence = &sequence, .num_tokens = 1, .samples = true};
  speculation.AddDrafts(std::span(&entry, 1), 100, 100);
  EXPECT_EQ(sequence.num_drafts(), 2);
}

TEST_F(SpeculationTest, AdaptsToTheCostOfTokens) {
  Speculation speculation({.max_drafts = 8, .adaptive = true});
  EXPECT_EQ(Drafts(speculation, 100, 100), 0);  // no step was timed yet
  speculation.NoteStep(1, 1.0);
  speculation.NoteStep(9, 1.01);  // more tokens cost nearly nothing
  EXPECT_GE(Drafts(speculation, 100, 100), 3);
  Speculation dear({.max_drafts = 8, .adaptive = true});
  dear.NoteStep(1, 1.0);
  dear.NoteStep(9, 9.0);  // as much as a step of their own
  EXPECT_EQ(Drafts(dear, 100, 100), 0);
}

TEST_F(SpeculationTest, AdaptsToHowOftenDraftsAreRight) {
  Speculation speculation({.max_drafts = 8, .adaptive = true});
  speculation.NoteStep(1, 1.0);
  speculation.NoteStep(9, 1.8);
  const int32_t before = Drafts(speculation, 100, 100);
  EXPECT_GT(before, 0);
  for (int i = 0; i < 60; ++i) speculation.NoteDrafts(sequence_, 4, 0);
  EXPECT_EQ(Drafts(speculation, 100, 100), 0);
  for (int i = 0; i < 60; ++i) speculation.NoteDrafts(sequence_, 4, 4);
  EXPECT_EQ(Drafts(speculation, 100, 100), 8);
}

}  // namespace
}  // namespace tandem::engine
