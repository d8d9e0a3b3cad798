// Whatever the ids: only whole characters come out, at once, and nothing is lost.
#include "runtime/text/tokenizer/stream_decoder.h"

#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/base/utf8.h"
#include "tests/runtime/text/tokenizer/small_tokenizer.h"

namespace tandem::tokenizer {
namespace {

class StreamDecoderTest : public testing::Test {
 protected:
  void SetUp() override {
    auto tokenizer = Tokenizer::FromJson(SmallTokenizer().dump(), "t.json");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  // Token ids 0 to 255 are the bytes.
  static std::vector<int32_t> BytesAsIds(std::string_view bytes) {
    std::vector<int32_t> ids;
    for (const char c : bytes) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }

  std::vector<std::string> Deltas(const std::vector<int32_t>& ids, bool skip = false) {
    StreamDecoder decoder(*tokenizer_, skip);
    std::vector<std::string> deltas;
    for (const int32_t id : ids) deltas.push_back(*decoder.Append(id));
    deltas.push_back(decoder.Flush());
    EXPECT_EQ(decoder.Flush(), "");
    for (const std::string& delta : deltas) {
      EXPECT_EQ(FindInvalidUtf8(delta), std::string::npos);
    }
    return deltas;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(StreamDecoderTest, EmitsACharacterWithItsLastByte) {
  EXPECT_THAT(Deltas(BytesAsIds("aé字🙂")),
              testing::ElementsAre("a", "", "é", "", "", "字", "", "", "", "🙂", ""));
}

TEST_F(StreamDecoderTest, ReplacesEachMaximalSubpartAsSoonAsItIsDecided) {
  const std::string r(kReplacementCharacter);
  EXPECT_THAT(Deltas(BytesAsIds("\xFF")), testing::ElementsAre(r, ""));
  EXPECT_THAT(Deltas(BytesAsIds("\xC3")), testing::ElementsAre("", r));
  EXPECT_THAT(Deltas(BytesAsIds("\xE5\xAD")), testing::ElementsAre("", "", r));
  EXPECT_THAT(Deltas(BytesAsIds("\xF0\x9F\x99")), testing::ElementsAre("", "", "", r));
  EXPECT_THAT(Deltas(BytesAsIds("\xE5\xAD"
                                "A")),
              testing::ElementsAre("", "", r + "A", ""));
  EXPECT_THAT(Deltas(BytesAsIds("\xE0\x80")), testing::ElementsAre("", r + r, ""));
  EXPECT_THAT(Deltas(BytesAsIds("\xED\xA0\x80")), testing::ElementsAre("", r + r, r, ""));
  EXPECT_THAT(Deltas(BytesAsIds("\xC3\xC3\xA9")), testing::ElementsAre("", r, "é", ""));
}

TEST_F(StreamDecoderTest, SkipsSpecialTokensAlsoInsideACharacter) {
  EXPECT_THAT(Deltas({0xC3, 261, 0xA9, 263}, /*skip=*/true),
              testing::ElementsAre("", "", "é", "<tool>", ""));
}

TEST_F(StreamDecoderTest, AnIdWithoutATokenLeavesTheStreamAsItWas) {
  StreamDecoder decoder(*tokenizer_, false);
  EXPECT_EQ(*decoder.Append(0xC3), "");
  EXPECT_EQ(decoder.Append(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(decoder.Append(9999).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(*decoder.Append(0xA9), "é");
}

TEST_F(StreamDecoderTest, DeltasAddUpToTheWholeText) {
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::vector<int32_t> ids;
    for (size_t n = random() % 24; n > 0; --n) {
      // Mostly bytes from which characters are made.
      ids.push_back(random() % 4 == 0 ? static_cast<int32_t>(random() % 264)
                                      : static_cast<int32_t>(0x80 + random() % 0x80));
    }
    for (const bool skip : {false, true}) {
      std::string text;
      for (const std::string& delta : Deltas(ids, skip)) text += delta;
      EXPECT_EQ(text, Utf8Lossy(*tokenizer_->Decode(ids, skip)));
    }
  }
}

}  // namespace
}  // namespace tandem::tokenizer
