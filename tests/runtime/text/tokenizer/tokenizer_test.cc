// What a file may say, what is refused, and what encoding promises whatever the file.
#include "runtime/text/tokenizer/tokenizer.h"

#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/runtime/text/tokenizer/small_tokenizer.h"

namespace tandem::tokenizer {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;
using testing::HasSubstr;

std::unique_ptr<Tokenizer> Load(const Json& file) {
  auto tokenizer = Tokenizer::FromJson(file.dump(), "t.json");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::string ErrorOf(std::string_view text) {
  const auto tokenizer = Tokenizer::FromJson(text, "t.json");
  if (tokenizer.ok()) return "loaded";
  EXPECT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(tokenizer.status().message());
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_TRUE(message.starts_with("t.json: ")) << message;
  return message;
}

struct Refusal {
  const char* change;   // a JSON patch's "path"
  const char* value;    // JSON, or null to remove
  const char* message;  // part of the error
};

TEST(TokenizerLoad, RefusesByNameWhatItDoesNotSupport) {
  const Refusal kRefusals[] = {
      {"/model/type", "\"Unigram\"", "model: found type \"Unigram\", expected BPE"},
      {"/model", nullptr, "found no field \"model\""},
      {"/model", "[]", "model: found [], expected an object"},
      {"/model/vocab", "[1]", "model.vocab: found [1]"},
      {"/model/vocab", nullptr, "found no field \"vocab\""},
      {"/model/vocab/ab", "-1", "model.vocab[\"ab\"]: found -1"},
      {"/model/vocab/ab", "1.5", "found 1.5"},
      {"/model/vocab/ab", "\"7\"", "found \"7\""},
      {"/model/vocab/ab", "4194304", "expected an integer from 0 to 4194303"},
      {"/model/vocab/ab", "18446744073709551615", "found 18446744073709551615"},
      {"/model/vocab/ab", "257", "found id 257, which \"ab"},
      {"/model/vocab/abc", nullptr, "model.merges[1]: found \"abc\", which model.vocab lacks"},
      {"/model/merges", "{}", "model.merges: found {}"},
      {"/model/merges/0", "\"ab\"", "model.merges[0]: found \"ab\""},
      {"/model/merges/0", "\"a b c\"", "model.merges[0]: found \"a b c\""},
      {"/model/merges/0", "[\"a\"]", "model.merges[0]: found [\"a\"]"},
      {"/model/merges/0", "[\"a\", 1]", "model.merges[0]: found [\"a\",1]"},
      {"/model/merges/0", "\"a zz\"", "found \"zz\", which model.vocab lacks"},
      {"/model/dropout", "0.1", "model.dropout: found 0.1"},
      {"/model/byte_fallback", "1", "model.byte_fallback: found 1"},
      {"/model/ignore_merges", "1", "model.ignore_merges: found 1"},
      {"/model/continuing_subword_prefix", "\"##\"", "continuing_subword_prefix: found"},
      {"/model/end_of_word_suffix", "\"</w>\"", "end_of_word_suffix: found"},
      {"/model/novelty", "true", "model: found the unknown field \"novelty\""},
      {"/version", "\"2.0\"", "version: found \"2.0\""},
      {"/added_tokens", "{}", "added_tokens: found {}"},
      {"/added_tokens/0/id", "-1", "added_tokens[0].id: found -1"},
      {"/added_tokens/0/id", "262", "added_tokens[1].id: found id 262, which \"<s>\""},
      {"/added_tokens/0/id", "3", "which model.vocab gives to another token"},
      {"/added_tokens/0/content", "\"\"", "added_tokens[0].content: found \"\""},
      {"/added_tokens/0/content", "\"ab\"", "expected 256 as in model.vocab"},
      {"/added_tokens/0/content", "\"</s>\"", "found \"</s>\" twice"},
      {"/added_tokens/0/lstrip", nullptr, "found no field \"lstrip\""},
      {"/added_tokens/0", "7", "added_tokens[0]: found 7"},
      {"/normalizer", "{\"type\": \"Lowercase\"}", "normalizer: found type \"Lowercase\""},
      {"/normalizer", "{}", "normalizer: found no field \"type\""},
      {"/pre_tokenizer", nullptr, "decoder: found ByteLevel, expected none"},
      {"/pre_tokenizer/type", "\"UnicodeScripts\"", "pre_tokenizer: found type \"UnicodeScripts\""},
      {"/pre_tokenizer", R"({"type":"Sequence","pretokenizers":[]})",
       "decoder: found ByteLevel, expected none"},
      {"/pre_tokenizer", R"({"type":"Metaspace","replacement":"__"})",
       "pre_tokenizer.replacement: found \"__\", expected a character"},
      {"/pre_tokenizer", R"({"type":"Metaspace","replacement":"_","prepend_scheme":"last"})",
       "prepend_scheme: found \"last\", expected always, first or never"},
      {"/pre_tokenizer/add_prefix_space", "\"yes\"", "add_prefix_space: found \"yes\""},
      {"/decoder", nullptr, "found no field \"decoder\""},
      {"/decoder/type", "\"WordPiece\"", "decoder: found type \"WordPiece\""},
      {"/decoder", R"({"type":"Fuse"})", "decoder: found no ByteLevel, expected it"},
      {"/decoder", R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"ByteFallback"}]})",
       "decoder.decoders[1]: found \"ByteFallback\" here"},
      {"/decoder", R"({"type":"Sequence","decoders":[{"type":"Fuse"},
        {"type":"Strip","content":" ","start":1,"stop":1}]})",
       "decoder.decoders[1].stop: found 1, expected 0"},
      {"/decoder", R"({"type":"Sequence","decoders":[{"type":"ByteLevel"},
        {"type":"ByteFallback"}]})",
       "decoder: found ByteLevel among others"},
      {"/post_processor/type", "\"BertProcessing\"", "found type \"BertProcessing\""},
      {"/post_processor/single/0/SpecialToken/id", "\"<x>\"", "found no field \"<x>\""},
      {"/post_processor/special_tokens/<s>/ids/0", "900", "ids[0]: found 900"},
      {"/post_processor/single/1/Sequence/id", "\"B\"", "expected the sequence \"A\""},
      {"/post_processor/single/1", nullptr, "found no sequence \"A\""},
  };
  for (const Refusal& refusal : kRefusals) {
    SCOPED_TRACE(refusal.change);
    Json patch = {{"path", refusal.change}};
    if (refusal.value == nullptr) {
      patch["op"] = "remove";
    } else {
      // "add" replaces a member, but inserts into an array.
      const bool in_array =
          std::isdigit(static_cast<unsigned char>(std::string(refusal.change).back())) != 0;
      patch["op"] = in_array ? "replace" : "add";
      patch["value"] = Json::parse(refusal.value);
    }
    EXPECT_THAT(ErrorOf(SmallTokenizer().patch(Json::array({patch})).dump()),
                HasSubstr(refusal.message));
  }
}

TEST(TokenizerLoad, RefusesBadPatterns) {
  for (const auto& [pattern, message] : std::vector<std::pair<const char*, const char*>>{
           {"(", "does not compile"},
           {"[a", "expected ] at the end of the class"},
           {"a{2}+", "no + or ? after {n}"},
           {"(*COMMIT)a", "expected no verbs"},
           {"(?R)", "found \"(?R\""},
           {"[&&b]", "expected a class before &&"},
           {"[a&&]", "expected a class that is not empty"},
           {"[[:alpha:]]", "expected \\p{NAME}"},
           {"[a[b]", "expected ] at the end of the class"},
           {"\\Xword", "found \"\\\\X\""},
           {"(a)\\1", "found \"\\\\1\""},
           {"\\p{Klingon}", "does not compile"},
           {"\\", "a character after the backslash"},
       }) {
    SCOPED_TRACE(pattern);
    Json file = SmallTokenizer();
    const Json split = {{"type", "Split"},
                        {"pattern", {{"Regex", pattern}}},
                        {"behavior", "Isolated"},
                        {"invert", false}};
    file["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", {split, file["pre_tokenizer"]}}};
    const std::string error = ErrorOf(file.dump());
    EXPECT_THAT(error, HasSubstr("pre_tokenizer.pretokenizers[0].pattern.Regex: "));
    EXPECT_THAT(error, HasSubstr(message));
  }
}

TEST(TokenizerLoad, RefusesTextThatIsNoTokenizer) {
  for (const std::string& text :
       {std::string(), std::string("null"), std::string("[]"), std::string("7"), std::string("{"),
        std::string("\xFF\xFE"), std::string("{}"), std::string("{\"model\":{},\"model\":{}}"),
        std::string(1000000, '['), std::string(1 << 20, '\0')}) {
    EXPECT_NE(ErrorOf(text), "loaded");
  }
  const auto missing = Tokenizer::FromFile("/nonexistent/tokenizer.json");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(Tokenizer::FromFile("/").ok());
}

TEST(TokenizerLoad, SurvivesAnyDamage) {
  const std::string file = SmallTokenizer().dump();
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string damaged = file;
    const size_t at = random() % damaged.size();
    switch (random() % 3) {
      case 0:
        damaged[at] = static_cast<char>(random());
        break;
      case 1:
        damaged.resize(at);
        break;
      default:
        damaged.erase(at, 1 + random() % 8);
        break;
    }
    const auto tokenizer = Tokenizer::FromJson(damaged, "t.json");
    if (tokenizer.ok()) (void)(*tokenizer)->Encode("<s>abcd aaaa</s>", true);
  }
}

TEST(Tokenizer, MergesByRankThenPosition) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_EQ(*tokenizer->Encode("abcd", false), (Ids{257, 'd'}));
  EXPECT_EQ(*tokenizer->Encode("bcd", false), (Ids{'b', 258}));
  EXPECT_EQ(*tokenizer->Encode("aaaaa", false), (Ids{260, 'a'}));
  EXPECT_EQ(*tokenizer->Encode("aaab", false), (Ids{259, 256}));
  EXPECT_EQ(*tokenizer->Encode("", true), (Ids{261}));
  EXPECT_EQ(*tokenizer->Encode("", false), Ids{});
}

TEST(Tokenizer, LongWordsMergeAsShortOnes) {
  // "0" merges with nothing: a word cut there is merged alike on both sides.
  const auto tokenizer = Load(SmallTokenizer());
  std::mt19937 random(2);
  std::string word;
  Ids expected;
  for (int i = 0; i < 500; ++i) {
    std::string part = "0";
    for (size_t n = random() % 30; n > 0; --n) part += "aaabcd"[random() % 6];
    const Ids ids = *tokenizer->Encode(part, false);
    expected.insert(expected.end(), ids.begin(), ids.end());
    word += part;
  }
  EXPECT_EQ(*tokenizer->Encode(word, false), expected);
}

TEST(Tokenizer, SpecialTokensInText) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_EQ(*tokenizer->Encode("ab<s></s><tool>", true), (Ids{261, 256, 261, 262, 263}));
  EXPECT_EQ(*tokenizer->Encode("<s><tool>", false, SpecialTokensInText::kAsText),
            (Ids{'<', 's', '>', 263}));
  EXPECT_EQ(*tokenizer->Decode(Ids{261, 256, 263, 262}, true), "ab<tool>");
  EXPECT_EQ(*tokenizer->Decode(Ids{261, 256, 263, 262}, false), "<s>ab<tool></s>");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8AndNamesTheByte) {
  const auto tokenizer = Load(SmallTokenizer());
  for (const auto& [text, at] :
       std::vector<std::pair<std::string, std::string>>{{"abc\xFF", "byte 3"},
                                                        {"é\xC3", "byte 2"},
                                                        {"\xC0\x80", "byte 0"},
                                                        {"x\xED\xA0\x80", "byte 1"},
                                                        {"\xF4\x90\x80\x80", "byte 0"}}) {
    const auto ids = tokenizer->Encode(text, false);
    ASSERT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr(at));
  }
}

TEST(Tokenizer, IdsWithoutATokenHaveNoText) {
  Json file = SmallTokenizer();
  file["model"]["vocab"]["far"] = 300;  // a hole from 264 to 299
  const auto tokenizer = Load(file);
  EXPECT_EQ(tokenizer->vocab_size(), 301);
  for (const int32_t id : {-1, INT32_MIN, 264, 299, 301, INT32_MAX}) {
    EXPECT_FALSE(tokenizer->HasToken(id));
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_EQ(*tokenizer->Decode(Ids{'a', id, 'b'}, false), "ab");
    const auto bytes = tokenizer->TokenBytes(id);
    ASSERT_EQ(bytes.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr(std::to_string(id)));
  }
  EXPECT_EQ(*tokenizer->TokenBytes(300), "far");
}

TEST(Tokenizer, LooksTokensUpAsTheFileSpellsThem) {
  const auto tokenizer = Load(SmallTokenizer());
  EXPECT_EQ(tokenizer->IdOf("<s>"), 261);
  EXPECT_EQ(tokenizer->IdOf("Ġ"), ' ');
  EXPECT_EQ(tokenizer->IdOf(" "), std::nullopt);
  EXPECT_EQ(tokenizer->IdOf(""), std::nullopt);
  EXPECT_EQ(tokenizer->IdOf("\xFF"), std::nullopt);
  EXPECT_TRUE(tokenizer->IsSpecial(262));
  EXPECT_FALSE(tokenizer->IsSpecial(263));
}

TEST(Tokenizer, AddedTokensOutsideTheVocabularyDecodeToTheirContent) {
  // All of "éĠ" is in the byte-level alphabet; the reference makes the bytes E9 20 of it.
  Json file = SmallTokenizer();
  file["added_tokens"][2]["content"] = "éĠ";
  const auto tokenizer = Load(file);
  EXPECT_EQ(*tokenizer->Encode("xéĠ", false), (Ids{'x', 263}));
  EXPECT_EQ(*tokenizer->Decode(Ids{'x', 263}, false), "xéĠ");
}

TEST(Tokenizer, BytesWithoutATokenAreLeftOutAndReportedOnce) {
  Json file = SmallTokenizer();
  file["model"]["vocab"].erase("z");
  const auto tokenizer = Load(file);
  std::vector<size_t> reports;
  tokenizer->ReportLeftOut([&](size_t bytes) { reports.push_back(bytes); });
  EXPECT_EQ(*tokenizer->Encode("a", false), Ids{'a'});
  EXPECT_THAT(reports, testing::IsEmpty());
  EXPECT_EQ(*tokenizer->Encode("zazz", false), Ids{'a'});
  EXPECT_EQ(*tokenizer->Encode("z", false), Ids{});
  EXPECT_THAT(reports, testing::ElementsAre(3));
}

TEST(Tokenizer, BeginsWithATokenOnce) {
  Json file = SmallTokenizer();
  const auto with_template = Load(file);
  with_template->BeginWith(261);
  EXPECT_EQ(*with_template->Encode("a", true), *Load(file)->Encode("a", true));
  file.erase("post_processor");
  const auto without = Load(file);
  without->BeginWith(261);
  EXPECT_EQ(*without->Encode("a", true), (Ids{261, 'a'}));
  EXPECT_EQ(*without->Encode("a", false), Ids{'a'});
}

TEST(Tokenizer, APatternThatGivesUpIsAnError) {
  Json file = SmallTokenizer();
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", "(?:a|aa|a+)+$"}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, file["pre_tokenizer"]}}};
  const auto ids = Load(file)->Encode(std::string(5000, 'a') + "b", false);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kResourceExhausted) << ids.status();
}

TEST(Tokenizer, RoundTripsAnyText) {
  const auto tokenizer = Load(SmallTokenizer());
  std::mt19937 random(3);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (size_t n = random() % 40; n > 0; --n) {
      switch (random() % 6) {
        case 0:
          text += "<s>";
          break;
        case 1:
          text += std::string(1, '\0');
          break;
        case 2:
          text += "字🙂é";
          break;
        case 3:
          text += "<too";
          break;
        default:
          text += static_cast<char>('a' + random() % 5);
      }
    }
    const auto ids = tokenizer->Encode(text, false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*tokenizer->Decode(*ids, false), text);
  }
}

TEST(Tokenizer, ServesManyThreads) {
  const auto tokenizer = Load(SmallTokenizer());
  const std::string text = "abcd<s>aaaa abc";
  const Ids expected = *tokenizer->Encode(text, true);
  const auto fresh = Load(SmallTokenizer());  // nothing found out about its words yet
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 200; ++j) EXPECT_EQ(*fresh->Encode(text, true), expected);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenizerLimits, EncodingEndsOnceThereAreTooManyTokens) {
  const auto tokenizer = Load(SmallTokenizer());
  const std::string text = "abc<s>cdx";
  const auto all = tokenizer->Encode(text, true);
  ASSERT_TRUE(all.ok());
  ASSERT_EQ(all->size(), 5u);
  const auto encode = [&](size_t most) {
    return tokenizer->Encode(text, true, SpecialTokensInText::kParse, most);
  };
  EXPECT_EQ(*encode(5), *all);
  for (size_t most = 0; most < 5; ++most) {
    EXPECT_EQ(encode(most).status().code(), absl::StatusCode::kOutOfRange) << most;
  }
}

TEST(TokenizerLimits, ATextsLeastTokensFollowFromTheLongest) {
  EXPECT_EQ(Load(SmallTokenizer())->LeastTokens(600), 100);  // <tool>
  // NFC can make one byte of three.
  Json file = SmallTokenizer();
  file["normalizer"] = {{"type", "NFC"}};
  EXPECT_EQ(Load(file)->LeastTokens(1800), 100);
  const std::string kelvins = "\u212a\u212a\u212a";
  EXPECT_EQ(Load(file)->Encode(kelvins, false)->size(), 3u);
  EXPECT_LE(Load(file)->LeastTokens(kelvins.size()), 3);
  // Where text may vanish, nothing is known.
  file["normalizer"] = {{"type", "NFKC"}};
  EXPECT_EQ(Load(file)->LeastTokens(1 << 30), 0);
  file = SmallTokenizer();
  file["added_tokens"][0]["rstrip"] = true;
  EXPECT_EQ(Load(file)->LeastTokens(1 << 30), 0);
  file = SmallTokenizer();
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"},
                              {"pattern", {{"String", " "}}},
                              {"behavior", "Removed"},
                              {"invert", false}},
                             file["pre_tokenizer"]}}};
  EXPECT_EQ(Load(file)->LeastTokens(1 << 30), 0);
}

}  // namespace
}  // namespace tandem::tokenizer
