// Start, readiness, drain and failure of a front, over real gRPC on loopback.
#include "runtime/server/serve_front.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "tandem/v1/inference.grpc.pb.h"
#include "tests/runtime/server/byte_tokenizer.h"
#include "tests/runtime/server/fake_engine.h"

namespace tandem::server {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

// Before gRPC starts any thread, as a rank does it.
class BlockSignals : public ::testing::Environment {
 public:
  void SetUp() override { ASSERT_TRUE(DrainSignals::Block().ok()); }
};
const ::testing::Environment* const kBlockSignals =
    ::testing::AddGlobalTestEnvironment(new BlockSignals);

class ServeFrontTest : public ::testing::Test {
 protected:
  void Start(milliseconds drain_timeout = seconds(20), bool with_signals = false) {
    ServeFrontOptions options;
    options.server.listen = "127.0.0.1:0";
    options.drain_timeout = drain_timeout;
    options.on_stopped = [this] { ++stopped_calls_; };
    std::unique_ptr<DrainSignals> signals;
    if (with_signals) signals = *DrainSignals::Block();
    auto front = ServeFront::Start(options, std::move(signals));
    ASSERT_TRUE(front.ok()) << front.status();
    front_ = *std::move(front);
    address_ = front_->address();
    ASSERT_EQ(address_, "127.0.0.1:" + std::to_string(front_->port()));
    channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
    stub_ = v1::InferenceService::NewStub(channel_);
    health_ = grpc::health::v1::Health::NewStub(channel_);
  }

  void SetModel() {
    ServedModel model;
    model.engine = &engine_;
    model.tokenizer = tokenizer_.get();
    front_->SetModel(model);
  }

  HealthCheckResponse::ServingStatus Check(const std::string& service) {
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const grpc::Status status = health_->Check(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.status();
  }

  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> Open(grpc::ClientContext* context,
                                                                 int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text("abc");
    request.mutable_sampling()->set_max_tokens(max_tokens);
    auto reader = stub_->Generate(context, request);
    v1::GenerateResponse response;
    EXPECT_TRUE(reader->Read(&response));
    return reader;
  }

  grpc::Status ReadToEnd(grpc::ClientReader<v1::GenerateResponse>* reader) {
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    return reader->Finish();
  }

  FakeEngine engine_{/*allowed_steps=*/1};
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_ = MakeByteTokenizer();
  std::atomic<int> stopped_calls_{0};
  std::unique_ptr<ServeFront> front_;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  std::unique_ptr<grpc::health::v1::Health::Stub> health_;
};

TEST_F(ServeFrontTest, HealthFollowsTheModel) {
  Start();
  EXPECT_EQ(Check(""), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Check("tandem.v1.InferenceService"), HealthCheckResponse::NOT_SERVING);
  SetModel();
  EXPECT_EQ(Check(""), HealthCheckResponse::SERVING);
  EXPECT_EQ(Check("tandem.v1.InferenceService"), HealthCheckResponse::SERVING);
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("nobody");
  HealthCheckResponse response;
  EXPECT_EQ(health_->Check(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServeFrontTest, WatchSeesEveryChangeAndTheEnd) {
  Start();
  grpc::ClientContext context;
  auto watch = health_->Watch(&context, {});
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  SetModel();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  front_->RequestDrain();
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(front_->WaitUntilStopped().ok());
}

TEST_F(ServeFrontTest, WatchOfAnUnknownServiceStaysOpen) {
  Start();
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("nobody");
  auto watch = health_->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);
  SetModel();
  context.TryCancel();
  EXPECT_FALSE(watch->Read(&response));
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServeFrontTest, APortInUseIsOneClearError) {
  Start();
  ServeFrontOptions options;
  options.server.listen = address_;
  const auto second = ServeFront::Start(options, nullptr);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.status().message(), "cannot listen on " + address_ + ": Address already in use");
}

TEST_F(ServeFrontTest, AnAddressThatIsNoneIsRefused) {
  for (const char* bad : {"", "50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                          "1:2:3", ":50051"}) {
    ServeFrontOptions options;
    options.server.listen = bad;
    EXPECT_EQ(ServeFront::Start(options, nullptr).status().code(),
              absl::StatusCode::kInvalidArgument)
        << bad;
  }
  ServeFrontOptions options;
  options.server.listen = "192.0.2.1:0";  // of no machine
  const auto front = ServeFront::Start(options, nullptr);
  EXPECT_EQ(front.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(front.status().message()), HasSubstr("192.0.2.1:0"));
}

TEST_F(ServeFrontTest, ADrainLetsStreamsFinish) {
  Start();
  SetModel();
  grpc::ClientContext context;
  auto reader = Open(&context, 5);
  front_->RequestDrain();
  EXPECT_TRUE(front_->drain_requested());
  EXPECT_EQ(Check(""), HealthCheckResponse::NOT_SERVING);
  grpc::ClientContext late_context;
  v1::GenerateRequest request;
  request.set_text("late");
  auto late = stub_->Generate(&late_context, request);
  const grpc::Status refused = ReadToEnd(late.get());
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(refused.error_message(), HasSubstr("shutting down"));
  engine_.Allow(1000);
  EXPECT_TRUE(ReadToEnd(reader.get()).ok());
  EXPECT_TRUE(front_->WaitUntilStopped().ok());
  EXPECT_EQ(stopped_calls_, 1);
}

TEST_F(ServeFrontTest, ADrainThatTakesTooLongCutsStreamsShort) {
  Start(/*drain_timeout=*/milliseconds(100));
  SetModel();
  grpc::ClientContext context;
  auto reader = Open(&context, 1000);
  front_->RequestDrain();
  const grpc::Status status = ReadToEnd(reader.get());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("before the answer was complete"));
  EXPECT_TRUE(front_->WaitUntilStopped().ok());
  EXPECT_TRUE(engine_.WaitEmpty());
}

TEST_F(ServeFrontTest, ASignalDrainsAndASecondOneHurries) {
  Start(seconds(60), /*with_signals=*/true);
  SetModel();
  grpc::ClientContext context;
  auto reader = Open(&context, 1000);
  kill(getpid(), SIGUSR1);
  for (int i = 0; i < 1000 && !front_->drain_requested(); ++i) {
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_TRUE(front_->drain_requested());
  kill(getpid(), SIGTERM);
  EXPECT_EQ(ReadToEnd(reader.get()).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(front_->WaitUntilStopped().ok());
}

TEST_F(ServeFrontTest, ADrainBeforeTheModelIsReadyEndsAtOnce) {
  Start();
  front_->RequestDrain();
  EXPECT_TRUE(front_->WaitUntilStopped().ok());
  SetModel();  // the loader did not look: harmless
}

TEST(ServeFrontDeathTest, ASignalWhileLoadingEndsTheProcessWhereTheLauncherKnowsIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        ServeFrontOptions options;
        options.server.listen = "127.0.0.1:0";
        options.dies_while_loading = true;
        auto front = ServeFront::Start(options, *DrainSignals::Block());
        kill(getpid(), SIGTERM);
        (void)(*front)->WaitUntilStopped();
        _exit(0);
      },
      ::testing::KilledBySignal(SIGUSR1), "");
}

TEST_F(ServeFrontTest, AFailureEndsStreamsWithItsStatus) {
  Start();
  SetModel();
  grpc::ClientContext context;
  auto reader = Open(&context, 1000);
  front_->Fail(absl::UnavailableError("rank 2 has failed: no sign of life for 5 s"));
  const grpc::Status status = ReadToEnd(reader.get());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), HasSubstr("rank 2"));
  EXPECT_EQ(front_->WaitUntilStopped().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(stopped_calls_, 1);
}

// Its answer fills the connection, so that its stream cannot end.
TEST_F(ServeFrontTest, AFailureWaitsForNoReaderThatDoesNotRead) {
  for (const bool draining : {false, true}) {
    Start(/*drain_timeout=*/std::chrono::hours(1));
    SetModel();
    engine_.Allow(std::numeric_limits<int64_t>::max());
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_text("abc");
    request.mutable_sampling()->set_max_tokens(4900);
    request.mutable_sampling()->set_logprobs(20);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // else the connection takes more and more
    auto stub = v1::InferenceService::NewStub(
        grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(), arguments));
    auto reader = stub->Generate(&context, request);
    v1::GenerateResponse response;
    EXPECT_TRUE(reader->Read(&response));
    while (!engine_.WaitEmpty()) {
    }
    if (draining) front_->RequestDrain();
    front_->Fail(absl::UnavailableError("rank 2 has failed"));
    EXPECT_EQ(front_->WaitUntilStopped().message(), "rank 2 has failed");
    context.TryCancel();
    ReadToEnd(reader.get());
  }
}

TEST_F(ServeFrontTest, DestructionEndsOpenStreams) {
  Start(seconds(60));
  SetModel();
  grpc::ClientContext context;
  auto reader = Open(&context, 1000);
  front_.reset();
  EXPECT_EQ(ReadToEnd(reader.get()).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(engine_.WaitEmpty());
}

}  // namespace
}  // namespace tandem::server
