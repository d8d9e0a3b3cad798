// Ids and texts as the reference tokenizers give them; see tests/golden/make_tokenizer_golden.py.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/utf8.h"
#include "nlohmann/json.hpp"
#include "runtime/text/tokenizer/stream_decoder.h"
#include "runtime/text/tokenizer/tokenizer.h"
#include "tests/runtime/text/tokenizer/test_files.h"
#include "tests/support/source_path.h"

namespace tandem::tokenizer {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

const std::string kFolder = SourcePath("tests/golden/tokenizer");

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    const std::string name = entry.path().stem().string();
    if (name != "base_model") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string Stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special_tokens) {
  StreamDecoder decoder(tokenizer, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) {
    const auto delta = decoder.Append(id);
    EXPECT_TRUE(delta.ok()) << delta.status();
    EXPECT_EQ(FindInvalidUtf8(*delta), std::string::npos);
    text += *delta;
  }
  return text + decoder.Flush();
}

class TokenizerGolden : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerGolden, AgreesWithTheReference) {
  Json document = Json::parse(ReadTestFile(kFolder + "/" + GetParam() + ".json"));
  Json& file = document["tokenizer"];
  if (!file.contains("model")) {
    file["model"] = Json::parse(ReadTestFile(kFolder + "/base_model.json"));
  }
  const auto loaded = Tokenizer::FromJson(file.dump(), GetParam());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const Tokenizer& tokenizer = **loaded;
  ASSERT_FALSE(document["cases"].empty());
  for (const Json& expected : document["cases"]) {
    const std::string text = expected["text"];
    SCOPED_TRACE(testing::PrintToString(text));
    const auto ids = tokenizer.Encode(text, /*add_special_tokens=*/false);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, expected["ids"].get<Ids>());
    const auto special = tokenizer.Encode(text, /*add_special_tokens=*/true);
    ASSERT_TRUE(special.ok()) << special.status();
    EXPECT_EQ(*special, expected.value("special", *ids));
    const auto as_text = tokenizer.Encode(text, false, SpecialTokensInText::kAsText);
    ASSERT_TRUE(as_text.ok()) << as_text.status();
    EXPECT_EQ(*as_text, expected.value("as_text", *ids));

    const Ids golden_ids = expected["ids"];
    if (expected.contains("decoded") && expected["decoded"].is_null()) continue;
    const std::string decoded = expected.value("decoded", text);
    const std::string skipped = expected.value("skipped", decoded);
    for (const bool skip : {false, true}) {
      const auto bytes = tokenizer.Decode(golden_ids, skip);
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      EXPECT_EQ(Utf8Lossy(*bytes), skip ? skipped : decoded);
      EXPECT_EQ(Stream(tokenizer, golden_ids, skip), skip ? skipped : decoded);
    }
  }
}

TEST_P(TokenizerGolden, DecodesAnyIdsAsTheReference) {
  Json document = Json::parse(ReadTestFile(kFolder + "/" + GetParam() + ".json"));
  if (!document.contains("answers")) GTEST_SKIP() << "has none";
  const auto loaded = Tokenizer::FromJson(document["tokenizer"].dump(), GetParam());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (const Json& answer : document["answers"]) {
    SCOPED_TRACE(answer.dump());
    const Ids ids = answer["ids"];
    for (const bool skip : {false, true}) {
      const std::string expected = answer[skip ? "skipped" : "decoded"];
      EXPECT_EQ((*loaded)->Decode(ids, skip).value_or("error"), expected);
      EXPECT_EQ(Stream(**loaded, ids, skip), expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

class SharedTokenizer : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    folder_ = SharedPath(std::string("tokenizers/") + GetParam());
    if (folder_.empty()) GTEST_SKIP() << "no tokenizers beside the project";
    auto loaded = Tokenizer::FromFile(folder_ + "/tokenizer.json");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_ = *std::move(loaded);
  }

  std::string folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(SharedTokenizer, AgreesWithTheReference) {
  const Json cases = Json::parse(ReadTestFile(folder_ + "/cases.json"));
  ASSERT_FALSE(cases.empty());
  for (const Json& expected : cases) {
    const std::string text = expected["text"];
    SCOPED_TRACE(testing::PrintToString(text));
    // Twice: the second time words that are single tokens are known to be.
    for (int i = 0; i < 2; ++i) {
      const auto ids = tokenizer_->Encode(text, false);
      ASSERT_TRUE(ids.ok()) << ids.status();
      EXPECT_EQ(*ids, expected["ids"].get<Ids>());
    }
    const auto bytes = tokenizer_->Decode(expected["ids"].get<Ids>(), false);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    if (GetParam() == "llama-3") {  // Qwen's NFC may change the text
      EXPECT_EQ(*bytes, text);
    }
  }
}

TEST_P(SharedTokenizer, LongRunsAreFast) {
  // Each would take hours in quadratic time; the test's time limit tells.
  for (const std::string unit : {"a", " ", "\n", "!", "1", "é", "字", "\u0301", "\u0301\u0327"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    const auto ids = tokenizer_->Encode(text, true);
    ASSERT_TRUE(ids.ok()) << ids.status();
    const auto bytes = tokenizer_->Decode(*ids, true);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    // Qwen's NFC orders the two marks of the last, and composes nothing here.
    EXPECT_EQ(bytes->size(), text.size());
  }
}

INSTANTIATE_TEST_SUITE_P(All, SharedTokenizer, testing::Values("llama-3", "qwen2"),
                         [](const auto& info) {
                           return info.param == "llama-3" ? std::string("llama3") : info.param;
                         });

}  // namespace
}  // namespace tandem::tokenizer
