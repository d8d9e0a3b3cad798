// The service over real gRPC on a loopback port, with an engine that needs no model.
#include "runtime/server/generate_service.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/util/time_util.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "kernels/base/utf8.h"
#include "runtime/server/grpc_server.h"
#include "tandem/v1/inference.grpc.pb.h"
#include "tests/runtime/server/byte_tokenizer.h"
#include "tests/runtime/server/fake_engine.h"

namespace tandem::server {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Answer {
  grpc::Status status;
  std::string text;
  std::vector<int32_t> ids;
  int messages = 0;
  int logprobs = 0;    // tokens that have them
  size_t longest = 0;  // bytes of a message
  v1::GenerateResponse last;
};

class GenerateServiceTest : public ::testing::Test {
 protected:
  void Start(int64_t allowed_steps = std::numeric_limits<int64_t>::max(),
             bool with_tokenizer = true) {
    engine_ = std::make_unique<FakeEngine>(allowed_steps);
    tokenizer_ = MakeByteTokenizer();
    ListenWithoutModel();
    ServedModel model;
    model.engine = engine_.get();
    model.tokenizer = with_tokenizer ? tokenizer_.get() : nullptr;
    model.chat_template = chat_template_.has_value() ? &*chat_template_ : nullptr;
    model.info = {"demo", "LlamaForCausalLM", {257}, 3, "BF16", "0.1.0"};
    service_.SetModel(model);
  }

  void ListenWithoutModel() {
    GrpcServerOptions options;
    options.listen = "127.0.0.1:0";
    auto server = GrpcServer::Start(options, {&service_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = NewChannel();
    stub_ = v1::InferenceService::NewStub(channel_);
  }

  std::shared_ptr<grpc::Channel> NewChannel() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // that holds 64 KiB of what is not read
    return grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  void TearDown() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + seconds(5));
    EXPECT_EQ(service_.open_streams(), 0u);
  }

  void UseTemplate(const char* text) {
    auto made = chat::ChatTemplate::FromTokenizerConfig("{}", text);
    ASSERT_TRUE(made.ok()) << made.status();
    chat_template_ = *std::move(made);
  }

  static v1::GenerateRequest ChatRequest(const std::string& role, const std::string& content) {
    v1::GenerateRequest request;
    v1::ChatMessage* message = request.mutable_messages()->add_messages();
    message->set_role(role);
    message->set_content(content);
    request.mutable_sampling()->set_max_tokens(1);
    return request;
  }

  // What the engine was given for a chat request, with < and > for the special tokens' ids.
  std::string PromptOf(const v1::GenerateRequest& request) {
    const Answer answer = Generate(request);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    auto text = tokenizer_->Decode(engine_->submitted().back().prompt_ids, false);
    return text.ok() ? *text : std::string(text.status().message());
  }

  static v1::GenerateRequest TextRequest(const std::string& text, int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    return request;
  }

  Answer Read(grpc::ClientReader<v1::GenerateResponse>* reader) {
    Answer answer;
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      EXPECT_EQ(FindInvalidUtf8(response.text()), std::string_view::npos);
      answer.text += response.text();
      answer.ids.insert(answer.ids.end(), response.token_ids().begin(), response.token_ids().end());
      ++answer.messages;
      answer.logprobs += response.logprobs_size();
      answer.longest = std::max(answer.longest, response.ByteSizeLong());
      answer.last = response;
    }
    answer.status = reader->Finish();
    return answer;
  }

  Answer Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(20));
    auto reader = stub_->Generate(&context, request);
    return Read(reader.get());
  }

  // Sends bytes that no generated client would.
  grpc::Status SendRaw(const std::string& method, const std::string& bytes) {
    grpc::GenericStub generic(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(20));
    grpc::CompletionQueue queue;
    grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    auto call = generic.PrepareUnaryCall(&context, "/tandem.v1.InferenceService/" + method, request,
                                         &queue);
    call->StartCall();
    grpc::ByteBuffer response;
    grpc::Status status;
    call->Finish(&response, &status, this);
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
    return status;
  }

  // Until `condition` holds; false after 5 s.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 1000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(milliseconds(5));
    }
    return false;
  }

  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
  std::optional<chat::ChatTemplate> chat_template_;  // set before Start
  RequestMetrics metrics_;
  GenerateService service_{&metrics_};
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(GenerateServiceTest, StreamsTextIdsUsageAndTimings) {
  Start();
  const std::string text = "h\u00e9llo \U0001F642!";  // 2- and 4-byte characters
  const Answer answer = Generate(TextRequest(text, static_cast<int32_t>(text.size())));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, text);
  EXPECT_EQ(std::string(answer.ids.begin(), answer.ids.end()), text);
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(answer.last.usage().prompt_tokens(), static_cast<int>(text.size()) + 1);
  EXPECT_EQ(answer.last.usage().completion_tokens(), static_cast<int>(text.size()));
  EXPECT_EQ(answer.last.timings().queue().nanos(), 250'000'000);
  EXPECT_EQ(answer.last.timings().prefill().seconds(), 1);
  EXPECT_EQ(answer.last.timings().decode().nanos(), 750'000'000);
}

TEST_F(GenerateServiceTest, CallsAreCountedByTheirEnds) {
  Start();
  ASSERT_TRUE(Generate(TextRequest("abc", 2)).status.ok());
  EXPECT_FALSE(Generate(TextRequest("", 2)).status.ok());
  engine_->RefuseWith(absl::ResourceExhaustedError("full"));
  EXPECT_FALSE(Generate(TextRequest("abc", 2)).status.ok());
  EXPECT_EQ(metrics_.cut, 1);
  EXPECT_EQ(metrics_.stopped, 0);
  EXPECT_EQ(metrics_.failures[grpc::StatusCode::INVALID_ARGUMENT], 1);
  EXPECT_EQ(metrics_.failures[grpc::StatusCode::RESOURCE_EXHAUSTED], 1);
  EXPECT_EQ(metrics_.seconds.Read().count, 1);
  EXPECT_EQ(metrics_.prompt_tokens.Read().sum, 4);
  EXPECT_EQ(metrics_.generated_tokens.Read().sum, 2);
}

constexpr char kTemplate[] =
    "<s>{% for m in messages %}[{{ m.role }}:{{ m.content }}{% if m.tool_calls %}"
    "{{ m.tool_calls | tojson }}{% endif %}]{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}{% if shout %}!{{ shout }}{% endif %}"
    "{% if messages[0].role == 'bad' %}{{ raise_exception('no such role') }}{% endif %}"
    "{% if add_generation_prompt %}>{% endif %}";

TEST_F(GenerateServiceTest, MessagesAreRenderedAndGetNoSecondBos) {
  UseTemplate(kTemplate);
  Start();
  v1::GenerateRequest request = ChatRequest("user", "hi");
  EXPECT_EQ(PromptOf(request), "<s>[user:hi]>");
  EXPECT_EQ(engine_->submitted().back().prompt_ids[0], 256);  // one special token, not 3 bytes

  v1::ChatPrompt* prompt = request.mutable_messages();
  prompt->set_add_generation_prompt(false);
  prompt->set_tools_json(R"([{"z": 1, "a": 2.5}])");
  (*prompt->mutable_template_variables()->mutable_fields())["shout"].set_number_value(3);
  v1::ChatMessage* call = prompt->add_messages();
  call->set_role("assistant");
  call->set_tool_calls_json(R"([{"name": "f"}])");
  EXPECT_EQ(PromptOf(request),
            R"(<s>[user:hi][assistant:[{"name": "f"}]][{"z": 1, "a": 2.5}]!3)");
}

TEST_F(GenerateServiceTest, MessagesHaveTheFormThatTheTemplateReads) {
  UseTemplate(kTemplate);
  Start();
  v1::GenerateRequest request = ChatRequest("user", "hi");
  v1::ChatMessage* parts = request.mutable_messages()->add_messages();
  parts->set_role("user");
  parts->add_content_parts()->set_text("a");
  parts->add_content_parts()->set_text("b");
  v1::ChatMessage* call = request.mutable_messages()->add_messages();
  call->set_role("assistant");
  call->set_tool_calls_json(R"([{"function": {"name": "f", "arguments": "{\"x\": 1}"}}])");
  EXPECT_EQ(PromptOf(request),
            "<s>[user:hi][user:ab][assistant:"
            R"([{"function": {"name": "f", "arguments": {"x": 1}}}]]>)");
}

TEST_F(GenerateServiceTest, ToolsThatTheTemplateIgnoresAreRefused) {
  UseTemplate("{{ messages[0].content }}");
  Start();
  v1::GenerateRequest request = ChatRequest("user", "x");
  request.mutable_messages()->set_tools_json(R"([{"type": "function"}])");
  EXPECT_EQ(Generate(request).status.error_message(),
            "messages: tools: found 1, expected none: the model's chat template ignores them");
}

TEST_F(GenerateServiceTest, SpecialTokensInContentsAreParsedAsTransformersDoes) {
  UseTemplate("{{ messages[0].content }}");
  Start();
  PromptOf(ChatRequest("user", "a</s>"));
  EXPECT_THAT(engine_->submitted().back().prompt_ids, ElementsAre('a', 257));
}

TEST_F(GenerateServiceTest, BadMessagesAreRefused) {
  UseTemplate(kTemplate);
  Start();
  const auto refusal = [this](const v1::GenerateRequest& request) {
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return answer.status.error_message();
  };
  EXPECT_EQ(refusal(ChatRequest("bad", "x")), "messages: chat template: no such role");
  EXPECT_THAT(refusal(ChatRequest("", "x")), HasSubstr("messages.messages[0].role: empty"));
  v1::GenerateRequest request;
  request.mutable_messages();
  EXPECT_THAT(refusal(request), HasSubstr("messages.messages: empty"));
  request = ChatRequest("user", "x");
  request.mutable_messages()->set_tools_json("{}");
  EXPECT_EQ(refusal(request), "messages.tools_json: object, allowed: a JSON array");
  request.mutable_messages()->set_tools_json("[1,");
  EXPECT_THAT(refusal(request), HasSubstr("messages.tools_json: byte "));
  request = ChatRequest("user", "x");
  (*request.mutable_messages()->mutable_template_variables()->mutable_fields())["tools"]
      .set_bool_value(true);
  EXPECT_THAT(refusal(request), HasSubstr("messages.template_variables: tools"));
}

TEST_F(GenerateServiceTest, MessagesNeedATemplate) {
  Start();
  const Answer answer = Generate(ChatRequest("user", "hi"));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("no chat template"));
}

TEST_F(GenerateServiceTest, TheStopTokenIsAnIdButNotText) {
  Start();
  v1::GenerateRequest request;
  for (const int32_t id : {int32_t{'a'}, int32_t{'b'}, int32_t{257}})
    request.mutable_token_ids()->add_ids(id);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.text, "ab");
  EXPECT_THAT(answer.ids, ElementsAre('a', 'b', 257));
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_STOP);
}

TEST_F(GenerateServiceTest, HalfACharacterAtTheEndBecomesAReplacement) {
  Start();
  const Answer answer = Generate(TextRequest("\u00e9", 1));
  ASSERT_TRUE(answer.status.ok());
  EXPECT_EQ(answer.text, kReplacementCharacter);
}

TEST_F(GenerateServiceTest, CoalescesWhileTheReaderIsSlowUpToWhatClientsTake) {
  Start();
  constexpr int32_t kTokens = 4900;
  v1::GenerateRequest request = TextRequest("0123456789", kTokens);
  request.mutable_sampling()->set_logprobs(20);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, request);
  while (!engine_->WaitEmpty()) {  // the engine waits for no reader
  }
  const Answer answer = Read(reader.get());
  ASSERT_TRUE(answer.status.ok());
  EXPECT_GT(answer.messages, 1);
  EXPECT_LT(answer.messages, kTokens);
  EXPECT_LT(answer.longest, (size_t{1} << 20) + 4096);
  EXPECT_EQ(answer.logprobs, kTokens);
  ASSERT_EQ(answer.ids.size(), static_cast<size_t>(kTokens));
  for (size_t i = 0; i < answer.ids.size(); ++i) ASSERT_EQ(answer.ids[i], "0123456789"[i % 10]);
  EXPECT_EQ(answer.text, std::string(answer.ids.begin(), answer.ids.end()));
  EXPECT_EQ(answer.last.usage().completion_tokens(), kTokens);
}

TEST_F(GenerateServiceTest, ASlowReaderDelaysNobody) {
  Start(/*allowed_steps=*/0);
  auto slow_channel = NewChannel();
  auto slow_stub = v1::InferenceService::NewStub(slow_channel);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> slow;
  for (int i = 0; i < 8; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    slow.push_back(slow_stub->Generate(contexts.back().get(), TextRequest("slow", 4000)));
  }
  ASSERT_TRUE(Eventually([&] { return engine_->submitted().size() == 8; }));
  engine_->Allow(std::numeric_limits<int64_t>::max());
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(Generate(TextRequest("fast", 100)).status.ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(5));
  for (auto& reader : slow) EXPECT_EQ(Read(reader.get()).text.size(), 4000u);
}

TEST_F(GenerateServiceTest, CancelReachesTheEngine) {
  Start(/*allowed_steps=*/3);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, TextRequest("abc", 1000));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_EQ(Read(reader.get()).status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(engine_->WaitEmpty());
  EXPECT_EQ(engine_->cancelled(), 1);
  EXPECT_TRUE(service_.WaitIdle(std::chrono::steady_clock::now() + seconds(5)));
}

TEST_F(GenerateServiceTest, ManyCancelsLeaveNothing) {
  Start(/*allowed_steps=*/std::numeric_limits<int64_t>::max());
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
    for (int i = 0; i < 25; ++i) {
      contexts.push_back(std::make_unique<grpc::ClientContext>());
      readers.push_back(stub_->Generate(contexts.back().get(), TextRequest("x", 4000)));
    }
    // Some before the server has seen the call, some in mid-stream, some at the end.
    if (round % 2 == 1) std::this_thread::sleep_for(milliseconds(round));
    for (auto& context : contexts) context->TryCancel();
    for (auto& reader : readers) Read(reader.get());
  }
  EXPECT_TRUE(engine_->WaitEmpty());
  EXPECT_TRUE(service_.WaitIdle(std::chrono::steady_clock::now() + seconds(5)));
}

TEST_F(GenerateServiceTest, TheDeadlineReachesTheEngine) {
  Start(/*allowed_steps=*/1);
  grpc::ClientContext context;
  const auto deadline = engine::Clock::now() + seconds(2);
  context.set_deadline(std::chrono::system_clock::now() + seconds(2));
  auto reader = stub_->Generate(&context, TextRequest("abc", 1000));
  const Answer answer = Read(reader.get());
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(answer.text, "a");
  EXPECT_TRUE(engine_->WaitEmpty());
  ASSERT_EQ(engine_->submitted().size(), 1u);
  const auto seen = engine_->submitted()[0].deadline;
  ASSERT_TRUE(seen.has_value());
  EXPECT_LT(std::chrono::abs(*seen - deadline), seconds(1));
}

TEST_F(GenerateServiceTest, NoDeadlineIsNone) {
  Start();
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, TextRequest("abc", 1));
  EXPECT_TRUE(Read(reader.get()).status.ok());
  EXPECT_FALSE(engine_->submitted()[0].deadline.has_value());
}

TEST_F(GenerateServiceTest, TheEnginesRefusalIsTheStatus) {
  Start();
  engine_->RefuseWith(absl::ResourceExhaustedError("the queue is full: 8 of 8"));
  const Answer answer = Generate(TextRequest("abc", 10));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(answer.status.error_message(), "the queue is full: 8 of 8");
}

TEST_F(GenerateServiceTest, AnErrorInMidStreamComesAfterTheTextMadeSoFar) {
  Start(/*allowed_steps=*/3);
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, TextRequest("abcdef", 100));
  ASSERT_TRUE(Eventually([&] { return !engine_->submitted().empty(); }));
  std::this_thread::sleep_for(milliseconds(50));
  engine_->FailWith(absl::UnavailableError("rank 1 has failed"));
  const Answer answer = Read(reader.get());
  EXPECT_EQ(answer.text, "abc");
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(answer.status.error_message(), "rank 1 has failed");
}

TEST_F(GenerateServiceTest, TwoHundredStreamsAtOnce) {
  Start(/*allowed_steps=*/0);
  constexpr int kStreams = 200;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < kStreams; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(
        stub_->Generate(contexts.back().get(), TextRequest("stream " + std::to_string(i), 50)));
  }
  ASSERT_TRUE(Eventually([&] { return engine_->submitted().size() == kStreams; }));
  EXPECT_EQ(service_.open_streams(), static_cast<size_t>(kStreams));
  engine_->Allow(std::numeric_limits<int64_t>::max());
  for (int i = 0; i < kStreams; ++i) {
    const Answer answer = Read(readers[i].get());
    ASSERT_TRUE(answer.status.ok());
    EXPECT_EQ(answer.text.substr(0, 7), "stream ");
    EXPECT_EQ(answer.ids.size(), 50u);
    EXPECT_THAT(answer.text, HasSubstr("stream " + std::to_string(i)));
  }
}

TEST_F(GenerateServiceTest, BytesThatAreNoRequestAreInvalidArgument) {
  Start();
  const grpc::Status garbage = SendRaw("Generate", "\xff\xff\xff\xff");
  EXPECT_EQ(garbage.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(garbage.error_message(), HasSubstr("malformed tandem.v1.GenerateRequest"));
  // text = "ab\xC3(": the field is 1, its length 4.
  const grpc::Status utf8 = SendRaw("Generate", std::string("\x0a\x04"
                                                            "ab\xc3(",
                                                            6));
  EXPECT_EQ(utf8.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(utf8.error_message(), HasSubstr("text: not UTF-8 from byte 2 on"));
  // A length that goes beyond the message.
  EXPECT_EQ(SendRaw("Generate", std::string("\x0a\x7f"
                                            "ab",
                                            4))
                .error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  // token_ids (2) holding a broken message.
  EXPECT_EQ(SendRaw("Generate", std::string("\x12\x02\x0a\x7f", 4)).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  for (const char* method : {"Tokenize", "Detokenize", "GetModel"}) {
    EXPECT_EQ(SendRaw(method, "\xff\xff\xff\xff").error_code(), grpc::StatusCode::INVALID_ARGUMENT)
        << method;
  }
  EXPECT_THAT(SendRaw("Tokenize", std::string("\x0a\x01\x80", 3)).error_message(),
              HasSubstr("text: not UTF-8 from byte 0 on"));
}

TEST_F(GenerateServiceTest, RefusalsOverTheWire) {
  Start();
  const auto refusal = [&](const v1::GenerateRequest& request) {
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return answer.status.error_message();
  };
  EXPECT_THAT(refusal({}), HasSubstr("prompt: not set"));
  EXPECT_THAT(refusal(TextRequest("", 1)), HasSubstr("text: empty"));
  v1::GenerateRequest request;
  request.mutable_token_ids();
  EXPECT_THAT(refusal(request), HasSubstr("prompt: empty"));
  request.mutable_token_ids()->add_ids(258);
  EXPECT_THAT(refusal(request), HasSubstr("prompt.token_ids[0]: 258, allowed: 0 to 257"));
  EXPECT_THAT(refusal(TextRequest(std::string(5000, 'x'), 1)),
              AllOf(HasSubstr("5001 tokens"), HasSubstr("at most 4999")));
  request = TextRequest("x", 0);
  EXPECT_THAT(refusal(request), HasSubstr("sampling.max_tokens: 0"));
  request = TextRequest("x", 1);
  request.mutable_sampling()->set_temperature(-1);
  EXPECT_THAT(refusal(request), HasSubstr("sampling.temperature: -1"));
  request = TextRequest("x", 1);
  request.mutable_sampling()->set_top_k(-1);
  EXPECT_THAT(refusal(request), HasSubstr("sampling.top_k: -1"));
  request = TextRequest("x", 1);
  request.mutable_sampling()->set_top_p(1.5);
  EXPECT_THAT(refusal(request), HasSubstr("sampling.top_p: 1.5"));
  request = TextRequest("x", 1);
  request.mutable_sampling()->add_stop_token_ids(-1);
  EXPECT_THAT(refusal(request), HasSubstr("sampling.stop_token_ids[0]: -1"));
  EXPECT_TRUE(engine_->submitted().empty());
}

TEST_F(GenerateServiceTest, ARequestThatIsTooLongIsRefused) {
  Start();
  const Answer answer = Generate(TextRequest(std::string(5 << 20, 'x'), 1));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GenerateServiceTest, ACompressedRequestIsRefusedUnopened) {
  Start();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + seconds(20));
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  // 64 MiB that travel as 64 KiB.
  auto reader = stub_->Generate(&context, TextRequest(std::string(64 << 20, 'x'), 1));
  const Answer answer = Read(reader.get());
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("gzip"));
  EXPECT_TRUE(engine_->submitted().empty());
  EXPECT_EQ(Generate(TextRequest("x", 1)).status.error_code(), grpc::StatusCode::OK);
}

TEST_F(GenerateServiceTest, TooManyMessagesPartsAndToolsAreRefusedByName) {
  UseTemplate(kTemplate);
  Start();
  const auto refusal = [this](const v1::GenerateRequest& request) {
    const Answer answer = Generate(request);
    EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    return answer.status.error_message();
  };
  v1::GenerateRequest request;
  for (int i = 0; i < 390'000; ++i) request.mutable_messages()->add_messages()->set_role("user");
  EXPECT_EQ(refusal(request), "messages.messages: 390000 messages, allowed: at most 4096");
  request = ChatRequest("user", "x");
  std::string tools = "[{}";
  for (int i = 0; i < 2000; ++i) tools += ",{}";
  request.mutable_messages()->set_tools_json(tools + "]");
  EXPECT_EQ(refusal(request), "messages.tools_json: 2001 tools, allowed: at most 1024");
  std::string values = "[[0";
  for (int i = 0; i < 1'000'000; ++i) values += ",0";
  request.mutable_messages()->set_tools_json(values + "]]");
  EXPECT_THAT(refusal(request),
              HasSubstr("messages.tools_json: more JSON values than allowed: at most 32768"));
  EXPECT_TRUE(engine_->submitted().empty());
}

TEST_F(GenerateServiceTest, ARenderingLongerThanTheContextEndsEarly) {
  // The longest token has 4 bytes (</s>), the context 5000 tokens.
  UseTemplate(
      "{% for m in messages %}{% for i in range(100000) %}{{ m.content }}{% endfor %}"
      "{% endfor %}");
  Start();
  const Answer answer = Generate(ChatRequest("user", "0123456789"));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status.error_message(),
              AllOf(HasSubstr("messages: chat template: line 1: template writes more than 20000 "),
                    HasSubstr("5000 tokens")));
}

TEST_F(GenerateServiceTest, APromptThatCannotFitIsRefusedByItsLengthAlone) {
  Start();
  const Answer answer = Generate(TextRequest(std::string(4'000'000, 'x'), 1));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status.error_message(),
              AllOf(HasSubstr("prompt: at least 1000000 tokens (estimated from 4000000 bytes"),
                    HasSubstr("allowed: at most 4999")));
  v1::GenerateRequest request;
  for (int i = 0; i < 400'000; ++i) request.mutable_token_ids()->add_ids(200);
  EXPECT_THAT(Generate(request).status.error_message(), HasSubstr("prompt: at least 80000 tokens"));
}

TEST_F(GenerateServiceTest, AFullQueueIsNoticedBeforeAnyWork) {
  Start();
  engine_->SetWaiting(1024);
  // What would be an error of the text is not looked at.
  const Answer answer = Generate(TextRequest("", 1));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(answer.status.error_message(), "the queue is full: 1024 of 1024 places are taken");
  EXPECT_NE(answer.status.error_details(), "");  // RetryInfo
  engine_->SetWaiting(1023);
  EXPECT_TRUE(Generate(TextRequest("x", 1)).status.ok());
}

// A template that takes a second or so.
constexpr char kSlowTemplate[] =
    "{% for i in range(40) %}{% for j in range(100000) %}{% endfor %}{% endfor %}x";

TEST_F(GenerateServiceTest, CallsThatEndWhileTheirPromptIsMadeNeverReachTheEngine) {
  UseTemplate(kSlowTemplate);
  Start();
  for (int i = 0; i < 20; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + milliseconds(100));
    auto reader = stub_->Generate(&context, ChatRequest("user", "x"));
    if (i % 2 == 0) context.TryCancel();
    EXPECT_FALSE(Read(reader.get()).status.ok());
  }
  EXPECT_TRUE(Eventually([&] { return service_.open_streams() == 0; }));
  // Those that waited cost nothing.
  EXPECT_TRUE(Generate(TextRequest("x", 1)).status.ok());
  EXPECT_EQ(engine_->submitted().size(), 1u);
}

TEST_F(GenerateServiceTest, ALongErrorIsCutAndSentOnce) {
  UseTemplate("{{ raise_exception(messages[0].content) }}");
  Start();
  std::string content;
  for (int i = 0; i < 2000; ++i) content += "\u00e9\u20ac";
  const Answer answer = Generate(ChatRequest("user", content));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("messages: chat template: \u00e9\u20ac"));
  EXPECT_LE(answer.status.error_message().size(), 1024u);
  EXPECT_GT(answer.status.error_message().size(), 1000u);
  EXPECT_EQ(FindInvalidUtf8(answer.status.error_message()), std::string_view::npos);
  EXPECT_EQ(answer.status.error_details(), "");
}

TEST_F(GenerateServiceTest, CallsWithoutFieldsTakeFewBytes) {
  Start();
  std::string unknown;
  for (int i = 0; i < 100'000; ++i) unknown += "\x78\x01";
  for (const char* method : {"GetModel", "GetServerStatus"}) {
    const grpc::Status status = SendRaw(method, unknown);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(status.error_message(), "request: 200000 bytes, allowed: at most 16384");
    EXPECT_TRUE(SendRaw(method, unknown.substr(0, 100)).ok());
  }
}

TEST_F(GenerateServiceTest, DetokenizeAnswersWhatClientsTake) {
  Start();
  v1::DetokenizeRequest request;
  for (int i = 0; i < 1'100'000; ++i) request.add_ids(257);
  grpc::ClientContext context;
  v1::DetokenizeResponse text;
  const grpc::Status status = stub_->Detokenize(&context, request, &text);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(status.error_message(), "ids: a text of 4400000 bytes, allowed: at most 4194304");
}

TEST_F(GenerateServiceTest, TokenizeAndDetokenize) {
  Start();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("h\u00e9");
  v1::TokenizeResponse ids;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Tokenize(&context, tokenize, &ids).ok());
    EXPECT_THAT(ids.ids(), ElementsAre('h', 0xc3, 0xa9));
  }
  {
    grpc::ClientContext context;
    tokenize.set_add_special_tokens(true);
    ASSERT_TRUE(stub_->Tokenize(&context, tokenize, &ids).ok());
    EXPECT_THAT(ids.ids(), ElementsAre(256, 'h', 0xc3, 0xa9));
  }
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_ids() = ids.ids();
  v1::DetokenizeResponse text;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub_->Detokenize(&context, detokenize, &text).ok());
    EXPECT_EQ(text.text(), "<s>h\u00e9");
  }
  {
    grpc::ClientContext context;
    detokenize.set_skip_special_tokens(true);
    detokenize.mutable_ids()->RemoveLast();
    ASSERT_TRUE(stub_->Detokenize(&context, detokenize, &text).ok());
    EXPECT_EQ(text.text(), "h\uFFFD");
  }
  {
    grpc::ClientContext context;
    detokenize.add_ids(1000);
    const grpc::Status status = stub_->Detokenize(&context, detokenize, &text);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("ids[3]: 1000, allowed: 0 to 257"));
  }
}

TEST_F(GenerateServiceTest, GetModelTellsWhatIsServed) {
  Start();
  grpc::ClientContext context;
  v1::GetModelResponse model;
  ASSERT_TRUE(stub_->GetModel(&context, {}, &model).ok());
  EXPECT_EQ(model.name(), "demo");
  EXPECT_EQ(model.architecture(), "LlamaForCausalLM");
  EXPECT_EQ(model.vocab_size(), 258);
  EXPECT_EQ(model.max_model_len(), 5000);
  EXPECT_THAT(model.eos_token_ids(), ElementsAre(257));
  EXPECT_TRUE(model.has_tokenizer());
  EXPECT_EQ(model.tp_degree(), 3);
  EXPECT_EQ(model.weight_dtype(), "BF16");
  EXPECT_EQ(model.version(), "0.1.0");
}

TEST_F(GenerateServiceTest, WithoutATokenizerIdsOnly) {
  Start(std::numeric_limits<int64_t>::max(), /*with_tokenizer=*/false);
  EXPECT_EQ(Generate(TextRequest("abc", 1)).status.error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(65);
  request.mutable_sampling()->set_max_tokens(2);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok());
  EXPECT_THAT(answer.ids, ElementsAre(65, 65));
  EXPECT_EQ(answer.text, "");
  grpc::ClientContext context;
  v1::TokenizeResponse ids;
  const grpc::Status status = stub_->Tokenize(&context, {}, &ids);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("tokenizer.json"));
}

TEST_F(GenerateServiceTest, BeforeTheModelIsThereCallsAreUnavailable) {
  ListenWithoutModel();
  const Answer answer = Generate(TextRequest("abc", 1));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(answer.status.error_message(), HasSubstr("loading"));
  grpc::ClientContext context;
  v1::GetModelResponse model;
  EXPECT_EQ(stub_->GetModel(&context, {}, &model).error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace tandem::server
