#include "runtime/text/chat/chat_template.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/text/chat/chat_inputs.h"

namespace tandem::chat {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

ChatInputs Messages() {
  ChatInputs inputs;
  inputs.messages = {{{"role", "user"}, {"content", "Hi"}}};
  return inputs;
}

TEST(ChatTemplate, StringWithSpecialTokens) {
  const auto chat = ChatTemplate::FromTokenizerConfig(R"({
    "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": false},
    "eos_token": "</s>", "pad_token": null,
    "chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token is defined }}{{ tools is none }}{{ add_generation_prompt }}{{ x }}"})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatInputs inputs = Messages();
  inputs.extra = {{"x", 5}};
  EXPECT_EQ(chat->Render(inputs).value_or("error"), "<s>Hi</s>FalseTrueTrue5");
  inputs.extra["eos_token"] = "E";
  EXPECT_EQ(chat->Render(inputs).value_or("error"), "<s>HiEFalseTrueTrue5");
}

TEST(ChatTemplate, NamedListPicksToolUseWhenToolsAreGiven) {
  const auto chat = ChatTemplate::FromTokenizerConfig(R"({"chat_template": [
    {"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools {{ tools|length }}"}]})");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatInputs inputs = Messages();
  EXPECT_EQ(chat->Render(inputs).value_or("error"), "plain");
  inputs.tools = {{{"type", "function"}}};
  EXPECT_EQ(chat->Render(inputs).value_or("error"), "tools 1");
}

TEST(ChatTemplate, FileWinsOverConfig) {
  const auto chat =
      ChatTemplate::FromTokenizerConfig(R"({"chat_template": "config"})", "file {{ documents }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->Render(Messages()).value_or("error"), "file None");
}

TEST(ChatTemplate, AFileForToolsBesideTheOther) {
  const auto chat = ChatTemplate::FromTokenizerConfig("{}", "plain", "tools {{ tools|length }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ChatInputs inputs = Messages();
  EXPECT_EQ(chat->Render(inputs).value_or("error"), "plain");
  inputs.tools = {{{"type", "function"}}};
  EXPECT_EQ(chat->Render(inputs).value_or("error"), "tools 1");
}

TEST(ChatTemplate, AdditionalSpecialTokensAreAList) {
  const auto chat = ChatTemplate::FromTokenizerConfig(
      R"({"additional_special_tokens": ["<a>", {"content": "<b>"}]})",
      "{{ additional_special_tokens|join('+') }}{{ additional_special_tokens[1] }}");
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->Render(Messages()).value_or("error"), "<a>+<b><b>");
  EXPECT_EQ(ChatTemplate::FromTokenizerConfig(R"({"additional_special_tokens": [5]})", "x")
                .status()
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ChatTemplate, BadConfigsAreRefusedByName) {
  const auto message = [](std::string_view config) {
    return std::string(ChatTemplate::FromTokenizerConfig(config).status().message());
  };
  EXPECT_THAT(message("{"), HasSubstr("not valid JSON"));
  EXPECT_THAT(message("[]"), HasSubstr("expected an object"));
  EXPECT_THAT(message("{}"), HasSubstr("no chat template"));
  EXPECT_THAT(message(R"({"chat_template": 5})"), HasSubstr("chat_template: expected"));
  EXPECT_THAT(message(R"({"chat_template": [{"name": "a"}]})"), HasSubstr("name and template"));
  EXPECT_THAT(message(R"({"bos_token": 3, "chat_template": ""})"), HasSubstr("bos_token"));
  EXPECT_THAT(message(R"({"chat_template": "\n{{ x|y }}"})"),
              HasSubstr("chat template 'default': line 2: unknown filter 'y'"));
  EXPECT_EQ(
      ChatTemplate::FromTokenizerConfig(R"({"chat_template": [{"name": "a", "template": ""}]})")
          ->Render(Messages())
          .status()
          .code(),
      absl::StatusCode::kNotFound);
}

TEST(ChatLimits, EachIsNamedWithWhatWasFound) {
  ChatInputs inputs;
  const Json part = {{"type", "text"}, {"text", ""}};
  inputs.messages = Json::array({{{"role", "user"}, {"content", Json::array()}}});
  for (size_t i = 0; i < kMaxContentParts; ++i) inputs.messages[0]["content"].push_back(part);
  EXPECT_TRUE(CheckChatCounts(inputs, "body.").ok());
  inputs.messages[0]["content"].push_back(part);
  EXPECT_EQ(CheckChatCounts(inputs, "body.").message(),
            "body.messages: found 4097 parts of contents in all messages, expected at most 4096");
  inputs.messages = Json::array();
  for (size_t i = 0; i <= kMaxMessages; ++i) inputs.messages.push_back({{"role", "user"}});
  EXPECT_EQ(CheckChatCounts(inputs, "").message(),
            "messages: found 4097 messages, expected at most 4096");
  inputs.messages = Json::array();
  for (size_t i = 0; i <= kMaxTools; ++i) inputs.tools.push_back(Json::object());
  EXPECT_EQ(CheckChatCounts(inputs, "").message(),
            "tools: found 1025 tools, expected at most 1024");
}

TEST(ChatLimits, ValuesAreCountedWithoutBuildingThem) {
  EXPECT_EQ(CountJsonValues(R"({"a": [1, "x", null]})", 100), 5u);
  EXPECT_EQ(CountJsonValues(R"({"a": [1, "x", null]})", 3), 4u);
  EXPECT_EQ(CountJsonValues("[1,1,1,1,1,1,1,1,", 4), 5u);  // broken further on
  EXPECT_EQ(CountJsonValues("", 4), 0u);
}

}  // namespace
}  // namespace tandem::chat
