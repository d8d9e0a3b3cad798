#include "runtime/server/wire_counts.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/support/slice.h"
#include "gtest/gtest.h"
#include "runtime/engine/field_error.h"
#include "runtime/server/byte_buffer.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;

// In slices as small as a network may bring them.
grpc::ByteBuffer Bytes(const std::string& bytes, size_t slice_bytes = 1000) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += slice_bytes) {
    slices.emplace_back(bytes.substr(at, slice_bytes));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string Repeated(const std::string& text, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) all += text;
  return all;
}

// A length-delimited field.
std::string Field(int number, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  size_t length = bytes.size();
  for (; length >= 128; length >>= 7) out += static_cast<char>(length | 128);
  return out + static_cast<char>(length) + bytes;
}

WireCounts CountsOf(const std::string& bytes) {
  return CountFields(Bytes(bytes), *v1::GenerateRequest::descriptor());
}

absl::Status Parse(const std::string& bytes) {
  v1::GenerateRequest message;
  return ParseMessage(Bytes(bytes), &message);
}

TEST(WireCounts, AreThoseOfTheMessage) {
  v1::GenerateRequest request;
  for (int i = 0; i < 7; ++i) {
    v1::ChatMessage* message = request.mutable_messages()->add_messages();
    message->set_role("user");
    for (int j = 0; j < 3; ++j) message->add_content_parts()->set_text(std::string(300, 'x'));
  }
  request.mutable_messages()->mutable_messages(0)->set_tool_calls_json("[1]");
  request.mutable_messages()->set_tools_json("[{}]");
  auto& variables = *request.mutable_messages()->mutable_template_variables()->mutable_fields();
  variables["a"].set_bool_value(true);
  for (int i = 0; i < 5; ++i)
    variables["b"].mutable_list_value()->add_values()->set_number_value(i);
  (*request.mutable_sampling()->mutable_logit_bias())[3] = 1;
  request.mutable_sampling()->add_stop("a");
  request.mutable_sampling()->add_stop_token_ids(1);
  const WireCounts counts = CountsOf(request.SerializeAsString());
  EXPECT_EQ(counts.messages, 7u);
  EXPECT_EQ(counts.content_parts, 21u);
  EXPECT_EQ(counts.template_values, 7u);
  EXPECT_EQ(counts.json_bytes, 7u);
  EXPECT_EQ(counts.other, 2u);
  EXPECT_TRUE(CheckCounts(counts).ok());
}

TEST(WireCounts, TooMuchOfAnythingIsNamedWithItsNumberAndLimit) {
  const auto refusal = [](const std::string& bytes) {
    const absl::Status status = Parse(bytes);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(engine::FieldOf(status), "");
    return std::string(status.message());
  };
  const std::string message = Field(1, "");
  EXPECT_TRUE(Parse(Field(3, Repeated(message, 4096))).ok());
  EXPECT_EQ(refusal(Field(3, Repeated(message, 390000))),
            "messages.messages: 390000 messages, allowed: at most 4096");
  // Also where the field comes in pieces, and before bytes that are no message.
  EXPECT_THAT(refusal(Repeated(Field(3, Repeated(message, 1000)), 5)),
              HasSubstr(": 5000 messages"));
  EXPECT_THAT(refusal(Field(3, Repeated(message, 5000)) + "\xff"), HasSubstr(": 5000 messages"));
  EXPECT_THAT(refusal(Field(3, Field(1, Repeated(Field(7, ""), 5000)))),
              HasSubstr("messages.messages.content_parts: 5000 parts"));
  // A list of values in a variable: FIELDS of Struct, VALUE of the entry, LIST_VALUE, VALUES.
  const std::string list = Field(6, Repeated(Field(1, ""), 100000));
  EXPECT_THAT(refusal(Field(3, Field(4, Field(1, Field(1, "a") + Field(2, list))))),
              HasSubstr("messages.template_variables: 100001 values"));
  EXPECT_THAT(refusal(Field(4, Repeated(Field(11, ""), 100000))), HasSubstr("request: 100000 "));
  EXPECT_THAT(refusal(Field(4, Repeated(Field(15, ""), 100000))), HasSubstr("request: 100000 "));
}

TEST(WireCounts, UnknownFieldsAreCountedInEveryShape) {
  const auto others = [](const std::string& bytes) { return CountsOf(bytes).other; };
  EXPECT_EQ(others(Repeated(Field(15, "x"), 100)), 100u);
  EXPECT_EQ(others(Repeated("\x78\x01", 100)), 100u);                   // a varint of field 15
  EXPECT_EQ(others(Repeated("\x7b\x7c", 100)), 100u);                   // groups side by side
  EXPECT_EQ(others(Repeated("\x7b", 50) + Repeated("\x7c", 50)), 50u);  // in each other
  EXPECT_EQ(others("\x7b" + Repeated("\x08\x01", 100) + "\x7c"), 101u);
  EXPECT_EQ(others(Repeated("\x18\x01", 100)), 100u);               // messages as a varint
  EXPECT_EQ(others(Field(4, Repeated(Field(1, "x"), 100))), 100u);  // temperature as a text
}

TEST(WireCounts, APromptsLengthShowsWithoutReadingIt) {
  v1::GenerateRequest request;
  request.mutable_sampling()->set_max_tokens(3);
  request.set_text(std::string(100000, 'x'));
  EXPECT_EQ(PeekPrompt(Bytes(request.SerializeAsString())).text, 100000u);
  for (int i = 0; i < 1000; ++i) request.mutable_token_ids()->add_ids(5);
  const PromptBytes ids = PeekPrompt(Bytes(request.SerializeAsString()));
  EXPECT_EQ(ids.text, 0u);
  EXPECT_GE(ids.token_ids, 1000u);
  EXPECT_LT(ids.token_ids, 1010u);
  request.mutable_messages()->add_messages();
  const PromptBytes messages = PeekPrompt(Bytes(request.SerializeAsString()));
  EXPECT_EQ(messages.text + messages.token_ids, 0u);
  // A later text wins, as in the parser; what is cut off says nothing.
  EXPECT_EQ(PeekPrompt(Bytes(Field(1, std::string(500, 'x')) + Field(1, "ab"))).text, 2u);
  EXPECT_EQ(PeekPrompt(Bytes(Field(1, std::string(500, 'x')).substr(0, 100))).text, 0u);
  EXPECT_EQ(PeekPrompt(grpc::ByteBuffer()).text, 0u);
}

}  // namespace
}  // namespace tandem::server
