#include "runtime/server/choice_answer.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/runtime/server/byte_tokenizer.h"

namespace tandem::server {
namespace {

using engine::FinishReason;

engine::Event Tokens(const std::string& bytes, FinishReason finish = FinishReason::kNone) {
  engine::Event event;
  for (const unsigned char c : bytes) event.token_ids.push_back(c);
  event.finish = finish;
  return event;
}

TEST(ChoiceAnswer, EndsWithTheEngine) {
  const auto tokenizer = MakeByteTokenizer();
  ChoiceAnswer answer(tokenizer.get(), {});
  std::string text;
  EXPECT_TRUE(answer.Add(Tokens("ab"), &text));
  EXPECT_EQ(answer.finish(), FinishReason::kNone);
  EXPECT_FALSE(answer.Add(Tokens("c", FinishReason::kLength), &text));
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(answer.finish(), FinishReason::kLength);
  EXPECT_TRUE(answer.complete());
  EXPECT_FALSE(answer.stop_text().has_value());
  EXPECT_FALSE(answer.stop_token_id().has_value());
}

TEST(ChoiceAnswer, TheStopTokenHasNoText) {
  const auto tokenizer = MakeByteTokenizer();
  ChoiceAnswer answer(tokenizer.get(), {});
  std::string text;
  engine::Event event = Tokens("ab", FinishReason::kStop);
  event.ended_by_token = true;
  EXPECT_FALSE(answer.Add(event, &text));
  EXPECT_EQ(text, "a");
  EXPECT_EQ(answer.finish(), FinishReason::kStop);
  EXPECT_EQ(answer.stop_token_id(), 'b');
}

TEST(ChoiceAnswer, AStopTextEndsItBeforeTheEngineDoes) {
  const auto tokenizer = MakeByteTokenizer();
  ChoiceAnswer answer(tokenizer.get(), {.texts = {"end"}});
  std::string text;
  EXPECT_TRUE(answer.Add(Tokens("ae"), &text));
  EXPECT_EQ(text, "a");
  EXPECT_FALSE(answer.Add(Tokens("ndx"), &text));
  EXPECT_EQ(text, "a");
  EXPECT_EQ(answer.finish(), FinishReason::kStop);
  EXPECT_EQ(answer.stop_text(), "end");
}

TEST(ChoiceAnswer, HeldTextIsReleasedByACompleteAnswerAlone) {
  const auto tokenizer = MakeByteTokenizer();
  for (const FinishReason reason : {FinishReason::kLength, FinishReason::kError}) {
    ChoiceAnswer answer(tokenizer.get(), {.texts = {"end"}});
    std::string text;
    EXPECT_TRUE(answer.Add(Tokens("aen"), &text));
    EXPECT_FALSE(answer.Add(Tokens("", reason), &text));
    EXPECT_EQ(text, reason == FinishReason::kLength ? "aen" : "a");
    EXPECT_EQ(answer.finish(), reason);
    EXPECT_EQ(answer.complete(), reason == FinishReason::kLength);
  }
}

TEST(ChoiceAnswer, ResumedTokensAreSearchedToo) {
  const auto tokenizer = MakeByteTokenizer();
  ChoiceAnswer answer(tokenizer.get(), {.texts = {"end"}});
  std::string text;
  const int32_t ids[] = {'a', 'e', 'n'};
  answer.Resume(ids, &text);
  EXPECT_FALSE(answer.Add(Tokens("d"), &text));
  EXPECT_EQ(text, "a");
}

TEST(ChoiceAnswer, WithoutATokenizerThereIsNoText) {
  ChoiceAnswer answer(nullptr, {});
  std::string text;
  EXPECT_TRUE(answer.Add(Tokens("ab"), &text));
  EXPECT_FALSE(answer.Add(Tokens("c", FinishReason::kStop), &text));
  EXPECT_EQ(text, "");
  EXPECT_EQ(answer.finish(), FinishReason::kStop);
}

TEST(ChoiceAnswer, StopTextsOfARequest) {
  const StopTexts stops = StopTextsOf({.min_tokens = 3, .stop = {"a", "b"}, .include_stop = true});
  EXPECT_EQ(stops.texts, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(stops.include);
  EXPECT_EQ(stops.min_tokens, 3);
}

}  // namespace
}  // namespace tandem::server
