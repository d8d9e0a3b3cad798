// Patterns are rewritten so that PCRE2 reads them as Oniguruma does; see also the goldens.
#include "runtime/text/tokenizer/regex.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/utf8.h"
#include "runtime/text/tokenizer/pre_tokenizer.h"
#include "runtime/text/tokenizer/regex_syntax.h"

namespace tandem::tokenizer {
namespace {

// The spans of `text`, matches in brackets.
std::string Cut(std::string_view pattern, std::string_view text) {
  const auto regex = Regex::Compile(pattern);
  if (!regex.ok()) return std::string(regex.status().message());
  RegexScratch scratch;
  std::vector<Span> spans;
  const absl::Status status = regex->Split(text, scratch, &spans);
  if (!status.ok()) return std::string(status.message());
  std::string out;
  for (const Span& span : spans) {
    const std::string piece(text.substr(span.begin, span.end - span.begin));
    out += span.is_match ? "[" + piece + "]" : piece + "|";
  }
  return out;
}

TEST(RegexSyntax, RewritesWhatPcre2ReadsOtherwise) {
  EXPECT_EQ(*ToPcre2(R"(\s[^\s\S]\\s)"), R"(\p{White_Space}[^\p{White_Space}\P{White_Space}]\\s)");
  EXPECT_EQ(*ToPcre2(R"(\p{L}\p{Han}\P{Greek}\p{^Nd})"), R"(\p{L}\p{sc:Han}\P{sc:Greek}\P{Nd})");
  EXPECT_EQ(*ToPcre2(R"(\u00e9\x41\x{1F642}\v)"), R"(\x{00e9}\x{41}\x{1F642}\x{0B})");
  EXPECT_EQ(*ToPcre2(R"(a{2}b{1,3}?c{,d{x})"), R"(a{2}b{1,3}?c{,d{x})");
  EXPECT_EQ(*ToPcre2(R"([一-龥\-\]!#])"), R"([一-龥\-\]!#])");
}

TEST(Regex, MongolianVowelSeparatorIsNoWhiteSpace) {
  EXPECT_EQ(Cut(R"(\s)", "a\u180eb \u3000"), "a\u180eb|[ ][\u3000]");
  EXPECT_EQ(Cut(R"([^\s])", "\u180e\u0085"), "[\u180e]\u0085|");
  // The one table that is not PCRE2's says the same.
  for (int32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    if (c > 0x3100 && c % 97 != 0) continue;
    std::string text;
    AppendUtf8(c, &text);
    static const Regex* const kSpace = new Regex(*Regex::Compile("\\s"));
    static RegexScratch* const kScratch = new RegexScratch();
    std::vector<Span> spans;
    ASSERT_TRUE(kSpace->Split(text, *kScratch, &spans).ok());
    ASSERT_EQ(spans[0].is_match, IsWhiteSpace(c)) << c;
  }
}

TEST(Regex, EmptyMatches) {
  // As the reference: none directly after another match, and spans without bytes are kept.
  EXPECT_EQ(Cut("", "aé"), "[]a|[]é|[]");
  EXPECT_EQ(Cut("b*", "abb"), "[]a|[bb]");
  EXPECT_EQ(Cut("(?=b)", "abb"), "a|[]b|[]b|");
  EXPECT_EQ(Cut("$", "a\nb"), "a|[]\nb|[]");
}

TEST(Regex, NulIsACharacter) {
  EXPECT_EQ(Cut("\\x{0}", std::string_view("a\0b", 3)), std::string("a|[\0]b|", 7));
}

TEST(Regex, CatastrophicPatternsGiveUp) {
  EXPECT_THAT(Cut("(?:x+x+)+y", std::string(200, 'x') + "zy"),
              testing::HasSubstr("gave up at byte 0"));
}

TEST(SplitBehaviors, MergeMatchesAsTheReference) {
  // The example of the reference's documentation: "the-final--countdown" split at "-".
  const auto split = [](SplitBehavior behavior) {
    const std::string text = "the-final--countdown";
    RegexScratch scratch;
    std::vector<Span> spans;
    EXPECT_TRUE(Regex::Compile("-")->Split(text, scratch, &spans).ok());
    ApplyBehavior(behavior, &spans);
    std::vector<std::string> pieces;
    for (const Span& span : spans) {
      pieces.push_back(text.substr(span.begin, span.end - span.begin));
    }
    return pieces;
  };
  using testing::ElementsAre;
  EXPECT_THAT(split(SplitBehavior::kRemoved), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(split(SplitBehavior::kIsolated),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(split(SplitBehavior::kMergedWithPrevious),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(split(SplitBehavior::kMergedWithNext),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(split(SplitBehavior::kContiguous),
              ElementsAre("the", "-", "final", "--", "countdown"));
}

}  // namespace
}  // namespace tandem::tokenizer
