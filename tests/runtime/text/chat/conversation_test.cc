#include "runtime/text/chat/conversation.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/text/chat/chat_template.h"

namespace tandem::chat {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

// ChatML with Qwen3's calls: content as text, arguments as an object.
constexpr char kText[] =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}"
    "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}]{% endfor %}"
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}";
// As DeepSeek-R1's: calls only where the content is none, arguments joined as text.
constexpr char kNone[] =
    "{% for m in messages %}{% if m.role == 'assistant' and m['content'] is none %}"
    "{% for c in m.tool_calls %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}"
    "{% elif m.role == 'assistant' %}{{ 'A:' + m['content'] }}{% else %}{{ m['content'] }}"
    "{% endif %}{% endfor %}";
// Takes lists only.
constexpr char kList[] =
    "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}"
    "{% endfor %}";

std::string Render(const char* source, Json messages, Json tools = nullptr) {
  const auto chat = ChatTemplate::FromTokenizerConfig("{}", source);
  EXPECT_TRUE(chat.ok()) << chat.status();
  ChatInputs inputs;
  inputs.messages = std::move(messages);
  inputs.tools = std::move(tools);
  if (const absl::Status status = chat->Prepare(&inputs); !status.ok()) {
    return std::string(status.message());
  }
  const auto text = chat->Render(inputs);
  return text.ok() ? *text : std::string(text.status().message());
}

Json Parse(const char* text) { return Json::parse(text); }

TEST(Conversation, TextPartsAreJoinedWhereTheTemplateWantsText) {
  const Json messages = Parse(R"([{"role": "user", "content": [
    {"type": "text", "text": "Hello, "}, {"type": "text", "text": "you"}]}])");
  EXPECT_EQ(Render(kText, messages), "<user>Hello, you");
  EXPECT_EQ(Render("{% for m in messages %}{{ m.content | trim }}{% endfor %}", messages),
            "Hello, you");
  EXPECT_EQ(Render("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", messages),
            "\"Hello, you\"");
  // A template that drops what is no string, as Qwen3's.
  EXPECT_EQ(Render("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% endif %}"
                   "{% endfor %}",
                   messages),
            "Hello, you");
}

TEST(Conversation, TextPartsAreKeptWhereTheTemplateIterates) {
  const Json messages = Parse(R"([{"role": "user", "content": [
    {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])");
  EXPECT_EQ(Render(kList, messages), "<user>ab");
  EXPECT_EQ(Render("{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
                   "{% for p in m.content %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}",
                   messages),
            "(a)(b)");
}

TEST(Conversation, ATextBecomesAPartWhereTheTemplateTakesListsOnly) {
  EXPECT_EQ(Render(kList, Parse(R"([{"role": "user", "content": "text"}])")), "<user>text");
}

TEST(Conversation, PartsThatAreNoTextAreNamed) {
  EXPECT_EQ(Render(kText, Parse(R"([{"role": "user", "content": [{"type": "text", "text": "a"},
              {"type": "image_url", "image_url": {"url": "x"}}]}])")),
            "messages[0].content[1].type: found \"image_url\", expected \"text\": the model reads "
            "text only");
  EXPECT_THAT(Render(kText, Parse(R"([{"role": "user", "content": [
                {"type": "input_audio", "input_audio": {}}]}])")),
              HasSubstr("input_audio"));
  EXPECT_THAT(Render(kText, Parse(R"([{"role": "user", "content": [{"type": "text"}]}])")),
              HasSubstr("messages[0].content[0].text: found nothing"));
  EXPECT_THAT(Render(kText, Parse(R"([{"role": "user", "content": 5}])")),
              HasSubstr("messages[0].content: found 5"));
}

TEST(Conversation, ArgumentsAsJsonTextBecomeTheObjectThatTheTemplateReads) {
  const Json messages = Parse(R"([{"role": "assistant", "content": null, "tool_calls": [
    {"function": {"name": "f", "arguments": "{\"z\": 1, \"a\": \"x\"}"}},
    {"function": {"name": "g", "arguments": {"b": 2}}},
    {"function": {"name": "h", "arguments": ""}}]}])");
  EXPECT_EQ(Render(kText, messages), "<assistant>[f z=1 a=x][g b=2][h]");
}

TEST(Conversation, ArgumentsStayTextWhereTheTemplateJoinsThem) {
  const Json messages = Parse(R"([{"role": "assistant", "tool_calls": [
    {"function": {"name": "f", "arguments": "{\"z\":  1}"}},
    {"function": {"name": "g", "arguments": {"b": 2}}}]}])");
  EXPECT_EQ(Render(kNone, messages), "f {\"z\":  1}g {\"b\":2}");
}

TEST(Conversation, ArgumentsThatAreNoObjectAreNamed) {
  EXPECT_THAT(Render(kText, Parse(R"([{"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": "{a"}}]}])")),
              HasSubstr("messages[1].tool_calls[0].function.arguments: byte"));
  EXPECT_THAT(Render(kText, Parse(R"([{"role": "assistant", "tool_calls": [
                {"function": {"name": "f", "arguments": "[1]"}}]}])")),
              HasSubstr("expected a JSON object"));
}

TEST(Conversation, NoContentBesideCallsIsEmpty) {
  for (const char* content : {"", R"("content": null,)", R"("content": "",)"}) {
    const std::string messages = absl::StrCat(R"([{"role": "assistant",)", content,
                                              R"("tool_calls": [{"function":
                                              {"name": "f", "arguments": {}}}]}])");
    EXPECT_EQ(Render(kText, Parse(messages.c_str())), "<assistant>[f]");
    EXPECT_EQ(Render(kNone, Parse(messages.c_str())), "f {}");
  }
}

TEST(Conversation, ATextBesideCallsIsRefusedWhereTheTemplateWouldDropTheCalls) {
  const Json messages = Parse(R"([{"role": "assistant", "content": "t", "tool_calls": [
    {"function": {"name": "f", "arguments": {}}}]}])");
  EXPECT_EQ(Render(kText, messages), "<assistant>t[f]");
  EXPECT_THAT(Render(kNone, messages), HasSubstr("messages[0].content: found a text beside"));
}

TEST(Conversation, CallsThatTheTemplateDoesNotShowAreRefused) {
  EXPECT_THAT(Render(kList, Parse(R"([{"role": "assistant", "content": "", "tool_calls": [
                {"function": {"name": "f", "arguments": {}}}]}])")),
              HasSubstr("messages[0].tool_calls: found 1 calls, expected none"));
}

TEST(Conversation, KeysWithoutAValueAreDropped) {
  EXPECT_EQ(Render("{% for m in messages %}{{ m | tojson }}{% endfor %}", Parse(R"([
              {"role": "user", "content": null, "name": null},
              {"role": "assistant", "content": "a", "tool_calls": [], "refusal": null}])")),
            R"({"role": "user"}{"role": "assistant", "content": "a"})");
}

TEST(Conversation, ReasoningGoesByAllItsNames) {
  for (const char* name : {"reasoning", "reasoning_content", "thinking"}) {
    Json message = {{"role", "assistant"}, {"content", "a"}, {name, "why"}};
    EXPECT_EQ(Render("{% for m in messages %}{{ m.content }} {{ m.reasoning_content }} "
                     "{{ m.thinking }}{% endfor %}",
                     Json::array({message})),
              "a why why");
  }
}

TEST(Conversation, AMessageNeedsARole) {
  EXPECT_THAT(Render(kText, Parse(R"([{"content": "x"}])")),
              HasSubstr("messages[0].role: found nothing"));
  EXPECT_THAT(Render(kText, Parse(R"([{"role": "", "content": "x"}])")),
              HasSubstr("messages[0].role: found \"\""));
}

TEST(Conversation, ToolsAreRefusedWhereTheTemplateIgnoresThem) {
  const Json messages = Parse(R"([{"role": "user", "content": "x"}])");
  const Json tools = Parse(R"([{"type": "function", "function": {"name": "f"}}])");
  EXPECT_THAT(Render(kText, messages, tools), HasSubstr("\"name\": \"f\""));
  EXPECT_EQ(Render(kNone, messages, tools),
            "tools: found 1, expected none: the model's chat template ignores them");
  EXPECT_EQ(Render(kNone, messages, Json::array()), "x");
}

TEST(Conversation, ATemplateThatFailsOnEveryTrialGetsWhatWasSent) {
  EXPECT_EQ(Render("{% if messages[0].content != 'secret' %}{{ raise_exception('no') }}{% endif %}"
                   "{{ messages[0].content }}{{ tools | length }}",
                   Parse(R"([{"role": "user", "content": "secret"}])"), Parse(R"([{"a": 1}])")),
            "secret1");
}

}  // namespace
}  // namespace tandem::chat
