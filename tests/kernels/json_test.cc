#include "kernels/base/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace tandem::json {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Refusal(std::string_view text, int max_depth = 64) {
  const auto parsed = Parse(text, "file.json", max_depth);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
  const std::string message(parsed.status().message());
  EXPECT_THAT(message, StartsWith("file.json: byte "));
  EXPECT_EQ(message.find('\n'), message.npos);
  return message;
}

TEST(Json, ReadsOneValueWithSpacesAroundIt) {
  const auto parsed = Parse(" {\"a\": [1, -2, 0.5, null, true, \"\\u0000\"]}\n", "file.json");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)["a"].size(), 6u);
  EXPECT_EQ((*parsed)["a"][5], std::string(1, '\0'));  // escaped, a NUL is a character
}

TEST(Json, KeysInOrder) {
  const std::string_view text =
      R"({"z": {"b": 0, "c": {"x": 1}, "a": [{"d": 2}]}, "y": [{"z": {"q": 1}}], "b": {"e": 3}})";
  using Keys = std::vector<std::string>;
  EXPECT_EQ(KeysInOrder(text, {}), (Keys{"z", "y", "b"}));
  EXPECT_EQ(KeysInOrder(text, {"z"}), (Keys{"b", "c", "a"}));
  EXPECT_EQ(KeysInOrder(text, {"z", "c"}), (Keys{"x"}));
  EXPECT_EQ(KeysInOrder(text, {"b"}), (Keys{"e"}));
  // No objects: a number, a list, another's member, nothing.
  for (const auto& path : {"y", "c", "none"}) EXPECT_EQ(KeysInOrder(text, {path}), Keys{});
  EXPECT_EQ(KeysInOrder(text, {"z", "b"}), Keys{});
  EXPECT_EQ(KeysInOrder("[{\"a\": 1}]", {}), Keys{});
  EXPECT_EQ(KeysInOrder("", {}), Keys{});
}

TEST(Json, NulIsNoEndOfText) {
  using std::string_literals::operator""s;
  EXPECT_THAT(Refusal("{}\0"s), HasSubstr("byte 2: found a NUL"));
  EXPECT_THAT(Refusal("{}\0garbage"s), HasSubstr("byte 2: found a NUL"));
  EXPECT_THAT(Refusal("{} \0{}"s), HasSubstr("byte 3: found a NUL"));
  Refusal("\0{}"s);
  Refusal("{\"a\0b\": 1}"s);
  Refusal("{\"a\":\0 1}"s);
}

TEST(Json, RefusesWhatIsNoSingleValue) {
  for (const char* text :
       {"", " ", "{", "{} {}", "{}x", "{'a': 1}", "[1,]", "NaN", "1e999", "\"\xff\"", "\"\xc3\""}) {
    Refusal(text);
  }
}

TEST(Json, NamesAKeyThatAppearsTwice) {
  EXPECT_THAT(Refusal("{\"a\": 1, \"b\": {}, \"a\": 2}"), HasSubstr("\"a\" appears twice"));
}

TEST(Json, DepthCostsNoStack) {
  EXPECT_TRUE(Parse("[[[]]]", "file.json", 3).ok());
  EXPECT_THAT(Refusal("[[[[]]]]", 3), HasSubstr("nested deeper than 3"));
  Refusal(std::string(10'000'000, '['));
}

}  // namespace
}  // namespace tandem::json
