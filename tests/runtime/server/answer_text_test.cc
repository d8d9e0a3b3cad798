#include "runtime/server/answer_text.h"

#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/runtime/server/byte_tokenizer.h"

namespace tandem::server {
namespace {

// What each byte of `text`, as a token of its own, brings to light; the last entry is Flush's.
std::vector<std::string> Shown(const std::string& text, StopTexts stops,
                               std::optional<std::string>* stopped_by = nullptr) {
  const auto tokenizer = MakeByteTokenizer();
  AnswerText answer(*tokenizer, std::move(stops));
  std::vector<std::string> shown;
  for (const unsigned char c : text) {
    const int32_t id = c;
    answer.Append({&id, 1}, &shown.emplace_back());
  }
  answer.Flush(&shown.emplace_back());
  if (stopped_by != nullptr) *stopped_by = answer.stopped_by();
  return shown;
}

std::string Joined(const std::vector<std::string>& parts) {
  std::string all;
  for (const std::string& part : parts) all += part;
  return all;
}

TEST(AnswerText, WithoutStopsEverythingAtOnce) {
  EXPECT_EQ(Shown("ab", {}), (std::vector<std::string>{"a", "b", ""}));
}

TEST(AnswerText, NoPartOfAStopTextIsShown) {
  std::optional<std::string> by;
  // "<e" could begin the stop text until "x" follows.
  EXPECT_EQ(Shown("a<ex<end>b", {.texts = {"<end>"}}, &by),
            (std::vector<std::string>{"a", "", "", "<ex", "", "", "", "", "", "", ""}));
  EXPECT_EQ(by, "<end>");
}

TEST(AnswerText, IncludedWhereAskedFor) {
  EXPECT_EQ(Joined(Shown("a<end>b", {.texts = {"<end>"}, .include = true})), "a<end>");
}

TEST(AnswerText, WhatOnlyBeganLikeOneComesAtTheEnd) {
  std::optional<std::string> by;
  EXPECT_EQ(Shown("a<en", {.texts = {"<end>"}}, &by),
            (std::vector<std::string>{"a", "", "", "", "<en"}));
  EXPECT_FALSE(by.has_value());
}

TEST(AnswerText, TheFirstInTheTextWins) {
  std::optional<std::string> by;
  EXPECT_EQ(Joined(Shown("one two three", {.texts = {"three", "two"}}, &by)), "one ");
  EXPECT_EQ(by, "two");
}

TEST(AnswerText, SelfOverlapsAreFound) {
  // After "aab" fails at the third letter the search must not forget the second.
  EXPECT_EQ(Joined(Shown("xaaab!", {.texts = {"aab"}})), "xa");
  EXPECT_EQ(Joined(Shown("ababac", {.texts = {"abac"}})), "ab");
}

TEST(AnswerText, CharactersOfManyBytes) {
  EXPECT_EQ(Joined(Shown("gr\u00fc\u00dfe", {.texts = {"\u00df"}})), "gr\u00fc");
}

TEST(AnswerText, NotBeforeMinTokens) {
  EXPECT_EQ(Joined(Shown("stop stop", {.texts = {"stop"}, .min_tokens = 4})), "stop ");
}

TEST(AnswerText, AgreesWithASearchOfTheWholeText) {
  // All texts of six letters over {a, b} and all stop texts of up to three.
  for (int bits = 0; bits < 64; ++bits) {
    std::string text;
    for (int i = 0; i < 6; ++i) text += (bits >> i & 1) != 0 ? 'b' : 'a';
    for (const std::string& stop : {"a", "b", "ab", "ba", "aa", "aab", "aba", "bab", "abb"}) {
      const size_t at = text.find(stop);
      EXPECT_EQ(Joined(Shown(text, {.texts = {stop}})), text.substr(0, at)) << text << " " << stop;
    }
  }
}

constexpr int32_t kBegin = 256;  // "<s>"
constexpr int32_t kEnd = 257;    // "</s>"

// The text of `ids`, one at a time, and the stop text that ended it in brackets.
std::string TextOf(const std::vector<int32_t>& ids, StopTexts stops) {
  const auto tokenizer = MakeByteTokenizer();
  AnswerText answer(*tokenizer, std::move(stops));
  std::string text;
  for (const int32_t id : ids) answer.Append({&id, 1}, &text);
  answer.Flush(&text);
  return answer.stopped_by().has_value() ? text + "[" + *answer.stopped_by() + "]" : text;
}

TEST(AnswerText, SpecialTokensAreTextWhereAskedFor) {
  EXPECT_EQ(TextOf({'a', kEnd, 'b'}, {}), "ab");
  EXPECT_EQ(TextOf({'a', kEnd, 'b'}, {.skip_special_tokens = false}), "a</s>b");
}

TEST(AnswerText, AStopTextThatIsASpecialTokenIsFound) {
  for (const bool skip : {false, true}) {
    EXPECT_EQ(TextOf({'a', kEnd, 'b'}, {.texts = {"</s>"}, .skip_special_tokens = skip}),
              "a[</s>]");
    EXPECT_EQ(TextOf({'a', '.', kEnd, 'b'}, {.texts = {".</s>b"}, .skip_special_tokens = skip}),
              "a[.</s>b]");
    EXPECT_EQ(
        TextOf({'a', kEnd, 'b'}, {.texts = {"</s>"}, .include = true, .skip_special_tokens = skip}),
        "a</s>[</s>]");
    EXPECT_EQ(TextOf({'a', kEnd, 'b', kEnd},
                     {.texts = {"</s>"}, .min_tokens = 2, .skip_special_tokens = skip}),
              skip ? "ab[</s>]" : "a</s>b[</s>]");
  }
  // Written out by other tokens, it is the same text.
  EXPECT_EQ(TextOf({'a', '<', '/', 's', '>', 'b'}, {.texts = {"</s>"}}), "a[</s>]");
}

TEST(AnswerText, WhatOnlyBeganLikeAStopTextStaysWithoutItsSpecialTokens) {
  EXPECT_EQ(TextOf({'a', kEnd, 'b', 'c'}, {.texts = {"</s>x"}}), "abc");
  EXPECT_EQ(TextOf({'a', kEnd}, {.texts = {"</s>x"}}), "a");
}

TEST(AnswerText, OtherStopTextsAreSearchedInTheVisibleText) {
  EXPECT_EQ(TextOf({'a', 'x', kBegin, 'y', 'b'}, {.texts = {"xy", "</s>"}}), "a[xy]");
  EXPECT_EQ(TextOf({'a', kBegin, 'x', 'y', 'b'}, {.texts = {"xy", "</s>"}}), "a[xy]");
  EXPECT_EQ(TextOf({'a', 'x', kEnd, 'y'}, {.texts = {"xy", "</s>"}}), "ax[</s>]");
}

}  // namespace
}  // namespace tandem::server
