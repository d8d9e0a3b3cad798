#include "runtime/batch/row.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>

#include "runtime/text/chat/chat_template.h"
#include "tests/runtime/server/byte_tokenizer.h"

namespace tandem::batch {
namespace {

using ::testing::HasSubstr;

RowReader Reader() {
  RowReader reader;
  reader.limits = {.vocab_size = 100, .max_model_len = 50, .max_queue = 100};
  reader.defaults.max_tokens = 9;
  reader.seed = 5;
  return reader;
}

absl::StatusOr<BatchRow> Read(const std::string& line, std::string* id = nullptr) {
  std::string unused;
  return Reader().Read(line, 3, id == nullptr ? &unused : id);
}

TEST(BatchRow, ShortFormWithItsSampling) {
  const auto row =
      Read(R"({"id":"a","prompt_ids":[1,2],"temperature":0.5,"top_k":3,"stop_token_ids":[7],)"
           R"("logit_bias":{"4":-2.5},"max_tokens":null,"min_tokens":2})");
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->id, "\"a\"");
  EXPECT_EQ(row->line, 3);
  EXPECT_EQ(row->form, RowForm::kShort);
  EXPECT_EQ(row->prompt_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_FLOAT_EQ(row->params.temperature, 0.5f);
  EXPECT_EQ(row->params.top_k, 3);
  EXPECT_EQ(row->params.max_tokens, 9);  // the command line's
  EXPECT_EQ(row->params.min_tokens, 2);
  EXPECT_EQ(row->params.logit_bias[0], (std::pair<int32_t, float>(4, -2.5f)));
  EXPECT_EQ(Read(R"({"id":7,"prompt_ids":[1]})")->id, "7");
}

TEST(BatchRow, SeedsFollowFromTextAndJob) {
  const std::string line = R"({"id":"a","prompt_ids":[1]})";
  EXPECT_EQ(Read(line)->params.seed, Read(line)->params.seed);
  EXPECT_EQ(Read(line)->params.seed, RowKey(line) ^ 5);
  EXPECT_NE(Read(line)->params.seed, Read(R"({"id":"b","prompt_ids":[1]})")->params.seed);
  EXPECT_EQ(Read(R"({"id":"a","prompt_ids":[1],"seed":12})")->params.seed, 12u);
}

TEST(BatchRow, OpenAiCompletionWithChoices) {
  const auto row = Read(
      R"({"custom_id":"x","method":"POST","url":"/v1/completions",)"
      R"("body":{"model":"m","prompt":[1,2,3],"n":4,"max_tokens":5,"stream":false,"user":"u"}})");
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->form, RowForm::kCompletion);
  EXPECT_EQ(row->choices, 4);
  EXPECT_EQ(row->params.n, 1);
  EXPECT_EQ(row->params.max_tokens, 5);
}

TEST(BatchRow, LogprobsInEachForm) {
  EXPECT_EQ(Read(R"({"id":"a","prompt_ids":[1]})")->params.logprobs, -1);
  EXPECT_EQ(Read(R"({"id":"a","prompt_ids":[1],"logprobs":0})")->params.logprobs, 0);
  const auto completion = Read(R"({"custom_id":"x","method":"POST","url":"/v1/completions",)"
                               R"("body":{"prompt":[1],"logprobs":3}})");
  ASSERT_TRUE(completion.ok()) << completion.status();
  EXPECT_EQ(completion->params.logprobs, 3);
  EXPECT_FALSE(Read(R"({"id":"a","prompt_ids":[1],"logprobs":21})").ok());
  EXPECT_FALSE(Read(R"({"id":"a","prompt_ids":[1],"logprobs":true})").ok());
}

TEST(BatchRow, RefusalsNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {"[1]", "row: found"},
      {"{", "row: "},
      {R"({"prompt_ids":[1]})", "id: found"},
      {R"({"id":1.5,"prompt_ids":[1]})", "id: found"},
      {R"({"id":"a"})", "found not one of them"},
      {R"({"id":"a","prompt":"x","prompt_ids":[1]})", "found not one of them"},
      {R"({"id":"a","prompt":"x"})", "no tokenizer.json"},
      {R"({"id":"a","messages":[]})", "no chat template"},
      {R"({"id":"a","prompt_ids":[1],"stop":["x"]})", "stop: the model has no tokenizer"},
      {R"({"id":"a","prompt_ids":[]})", "prompt: empty"},
      {R"({"id":"a","prompt_ids":[100]})", "prompt.token_ids[0]: 100"},
      {R"({"id":"a","prompt_ids":[1.5]})", "prompt_ids: found 1.5"},
      {R"({"id":"a","prompt_ids":[1],"max_tokens":0})", "sampling.max_tokens"},
      {R"({"id":"a","prompt_ids":[1],"max_tokens":5000000000})", "max_tokens: found 5000000000"},
      {R"({"id":"a","prompt_ids":[1],"max_tokens":-5000000000})", "max_tokens: found"},
      {R"({"id":"a","prompt_ids":[1],"temperature":"hot"})", "temperature: found"},
      {R"({"id":"a","prompt_ids":[1],"n":2})", "n\": found a field that is not known"},
      {R"({"id":"a","id":"b","prompt_ids":[1]})", "id"},
      {R"({"custom_id":"a","url":"/v1/completions","body":{}})", "method: found"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/embeddings","body":{}})", "url: found"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions"})", "body: found"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":[1],"echo":true}})",
       "body.echo: found true"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":[1],"nn":1}})",
       "nn"},
      {R"({"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":[1],"n":99}})",
       "sampling.n"},
  };
  for (const auto& [line, message] : cases) {
    const auto row = Read(line);
    ASSERT_FALSE(row.ok()) << line;
    EXPECT_THAT(std::string(row.status().message()), HasSubstr(message)) << line;
    EXPECT_EQ(std::string(row.status().message()).find('\n'), std::string::npos);
  }
  std::string id;
  EXPECT_FALSE(Read(R"({"id":"seen","prompt_ids":7})", &id).ok());
  EXPECT_EQ(id, "\"seen\"");
}

absl::StatusOr<BatchRow> ReadBody(const std::string& fields) {
  return Read(R"({"custom_id":"x","method":"POST","url":"/v1/completions",)"
              R"("body":{"prompt":[1],)" +
              fields + "}}");
}

TEST(BatchRow, OpenAiValuesThatAreCustomary) {
  const auto row = ReadBody(R"("top_p":0,"top_k":-1,"seed":-1,"temperature":2,"max_tokens":16.0,)"
                            R"("n":null,"stop":"","presence_penalty":null,"logit_bias":null,)"
                            R"("best_of":1)");
  ASSERT_TRUE(row.ok()) << row.status();
  // So little that one token is left.
  EXPECT_GT(row->params.top_p, 0);
  EXPECT_LT(row->params.top_p, 1e-30f);
  EXPECT_EQ(row->params.top_k, 0);
  EXPECT_EQ(row->params.seed, row->key ^ 5);  // as without a seed
  EXPECT_EQ(row->params.max_tokens, 16);
  EXPECT_TRUE(row->sampling.stop.empty());
}

TEST(BatchRow, OpenAiValuesOutOfRangeStayErrors) {
  for (const char* fields :
       {R"("top_p":-1)", R"("top_k":-2)", R"("max_tokens":1.5)", R"("max_tokens":-1)",
        R"("temperature":"0.7")", R"("stop":[""])", R"("best_of":3)", R"("n":1e300)"}) {
    EXPECT_FALSE(ReadBody(fields).ok()) << fields;
  }
}

// Rows of messages: a tokenizer of bytes, and a template that shows tools and calls.
class ChatRow : public testing::Test {
 protected:
  void SetUp() override {
    auto made = chat::ChatTemplate::FromTokenizerConfig(
        "{}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
        "{% for c in m.tool_calls or [] %}[{{ c.function.name }}"
        "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}]{% endfor %}"
        "{% endfor %}{% if tools %}{{ tools | length }} tools{% endif %}");
    ASSERT_TRUE(made.ok()) << made.status();
    chat_template_ = *std::move(made);
    reader_.tokenizer = tokenizer_.get();
    reader_.chat_template = &*chat_template_;
    reader_.limits = {.vocab_size = 258, .max_model_len = 500, .max_queue = 100};
  }

  // The prompt that the row's body gives, or its error.
  std::string Prompt(const std::string& body) {
    std::string id;
    const auto row = reader_.Read(R"({"custom_id":"x","method":"POST",)"
                                  R"("url":"/v1/chat/completions","body":)" +
                                      body + "}",
                                  1, &id);
    if (!row.ok()) return std::string(row.status().message());
    return tokenizer_->Decode(row->prompt_ids, false).value_or("error");
  }

  std::unique_ptr<tokenizer::Tokenizer> tokenizer_ = server::MakeByteTokenizer();
  std::optional<chat::ChatTemplate> chat_template_;
  RowReader reader_;
};

TEST_F(ChatRow, CallsAsOpenAiReturnsThem) {
  EXPECT_EQ(Prompt(R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},)"
                   R"({"type":"text","text":"b"}]},{"role":"assistant","content":null,)"
                   R"("refusal":null,"tool_calls":[{"id":"c","type":"function","function":)"
                   R"({"name":"f","arguments":"{\"x\": 1}"}}]},{"role":"tool",)"
                   R"("tool_call_id":"c","content":"r"}]})"),
            "<user>ab<assistant>[f x=1]<tool>r");
  EXPECT_THAT(Prompt(R"({"messages":[{"role":"assistant","tool_calls":[{"function":)"
                     R"({"name":"f","arguments":"{x"}}]}]})"),
              HasSubstr("body.messages[0].tool_calls[0].function.arguments: byte"));
  EXPECT_THAT(Prompt(R"({"messages":[{"role":"user","content":[{"type":"image_url"}]}]})"),
              HasSubstr("body.messages[0].content[0].type: found \"image_url\""));
}

TEST_F(ChatRow, MessagesNeedToBeThereAndToHaveRoles) {
  EXPECT_EQ(Prompt(R"({"messages":[]})"), "body.messages: found none, expected at least one");
  EXPECT_THAT(Prompt(R"({"messages":[{"role":"","content":"x"}]})"),
              HasSubstr("body.messages[0].role: found \"\""));
  EXPECT_THAT(Prompt(R"({"messages":[{"content":"x"}]})"),
              HasSubstr("body.messages[0].role: found nothing"));
}

TEST_F(ChatRow, ToolChoice) {
  const std::string with = R"({"messages":[{"role":"user","content":"x"}],)"
                           R"("tools":[{"type":"function","function":{"name":"f"}}])";
  EXPECT_EQ(Prompt(with + "}"), "<user>x1 tools");
  EXPECT_EQ(Prompt(with + R"(,"tool_choice":"auto","parallel_tool_calls":true})"),
            "<user>x1 tools");
  EXPECT_EQ(Prompt(with + R"(,"tool_choice":"none"})"), "<user>x");
  EXPECT_THAT(Prompt(with + R"(,"tool_choice":"required"})"),
              HasSubstr("body.tool_choice: found \"required\""));
  EXPECT_THAT(Prompt(with + R"(,"tool_choice":{"type":"function","function":{"name":"f"}}})"),
              HasSubstr("body.tool_choice: found {"));
  EXPECT_THAT(Prompt(with + R"(,"parallel_tool_calls":false})"),
              HasSubstr("body.parallel_tool_calls: found false"));
}

TEST_F(ChatRow, ToolsForATemplateThatIgnoresThem) {
  chat_template_ = *chat::ChatTemplate::FromTokenizerConfig("{}", "{{ messages[0].content }}");
  const std::string with = R"({"messages":[{"role":"user","content":"x"}],)"
                           R"("tools":[{"type":"function","function":{"name":"f"}}])";
  EXPECT_THAT(Prompt(with + "}"), HasSubstr("body.tools: found 1, expected none"));
  EXPECT_EQ(Prompt(with + R"(,"tool_choice":"none"})"), "x");
}

TEST_F(ChatRow, PromptsHaveTheDateAndZoneOfTheJob) {
  chat_template_ =
      *chat::ChatTemplate::FromTokenizerConfig("{}", "{{ strftime_now('%Y-%m-%d %H:%M') }}");
  EXPECT_TRUE(chat_template_->uses_time());
  const std::string body = R"({"messages":[{"role":"user","content":"x"}]})";
  for (const auto& [text, shown] : {std::pair("2024-02-29T23:30:05.25+05:30", "2024-02-29 23:30"),
                                    std::pair("1999-12-31T00:00:00-11:00", "1999-12-31 00:00")}) {
    reader_.time = *PromptTime::FromText(text);
    EXPECT_EQ(reader_.time.ToText(), text);
    EXPECT_EQ(Prompt(body), shown);
  }
  for (const char* text : {"", "now", "2024-02-29", "2024-02-30T00:00:00+00:00"}) {
    EXPECT_FALSE(PromptTime::FromText(text).ok()) << text;
  }
  EXPECT_FALSE(chat::ChatTemplate::FromTokenizerConfig("{}", "x")->uses_time());
}

}  // namespace
}  // namespace tandem::batch
