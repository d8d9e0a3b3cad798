#include "runtime/batch/row.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace tandem::batch
