// The link between a batch job's coordinator and its replicas, both ends over a real connection:
// who is let in, what passes, and what becomes of rows when a replica dies, stalls or does not
// read.
#include "runtime/batch/replica_server.h"

#include <grpcpp/create_channel.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/batch/coordinator.h"
#include "runtime/batch/coordinator_link.h"

namespace tandem::batch {
namespace {

using internal::v1::CoordinatorMessage;
using internal::v1::ReplicaMessage;
using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Clock = std::chrono::steady_clock;

constexpr seconds kLimit{60};  // of every wait

// Calls `turn` until it returns true; false when the limit is over.
bool Until(const std::function<bool()>& turn) {
  for (const Clock::time_point end = Clock::now() + kLimit; Clock::now() < end;) {
    if (turn()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

std::string RowText(int i, size_t padding = 0) {
  return absl::StrCat(R"({"id": )", i, R"(, "prompt_ids": [1], "max_tokens": 4)",
                      std::string(padding, ' '), "}");
}

// Counts the rows that are taken.
class CountedRows : public RowSource {
 public:
  explicit CountedRows(BatchCoordinator& inner) : inner_(inner) {}
  std::optional<Assignment> Next() override {
    std::optional<Assignment> next = inner_.Next();
    if (next.has_value()) ++taken;
    return next;
  }
  void AddTokens(uint64_t, int32_t, const std::vector<int32_t>&) override {}
  void Finish(uint64_t, bool, std::string) override {}
  void Wait(milliseconds) override {}
  absl::Status Flush(bool) override { return absl::OkStatus(); }
  int64_t rows_left() const override { return inner_.rows_left(); }
  bool all_done() const override { return inner_.all_done(); }
  int taken = 0;

 private:
  BatchCoordinator& inner_;
};

// A replica that speaks the protocol by hand.
class RawReplica {
 public:
  RawReplica(const CoordinatorAddress& address, const std::string& token, const std::string& number)
      : channel_(grpc::CreateChannel(absl::StrCat("ipv4:127.0.0.1:", address.port),
                                     grpc::InsecureChannelCredentials())) {
    call_.set_deadline(std::chrono::system_clock::now() + kLimit);
    if (!token.empty()) call_.AddMetadata(kTokenKey, token);
    if (!number.empty()) call_.AddMetadata(kReplicaKey, number);
    stream_ = internal::v1::ReplicaService::NewStub(channel_)->Connect(&call_);
  }
  ~RawReplica() {
    call_.TryCancel();
    if (!finished_) (void)stream_->Finish();
  }
  bool Send(const ReplicaMessage& message) { return stream_->Write(message); }
  bool Ask(int64_t rows) {
    ReplicaMessage message;
    message.mutable_credit()->set_rows(rows);
    return Send(message);
  }
  bool Receive(CoordinatorMessage& message) { return stream_->Read(&message); }
  grpc::Status End() {
    finished_ = true;
    return stream_->Finish();
  }

 private:
  const std::shared_ptr<grpc::Channel> channel_;
  grpc::ClientContext call_;
  std::unique_ptr<grpc::ClientReaderWriter<ReplicaMessage, CoordinatorMessage>> stream_;
  bool finished_ = false;
};

class ReplicaServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    reader_.limits.vocab_size = 8;
    reader_.limits.max_model_len = 64;
    reader_.limits.max_queue = 8;
    journal_ = *BatchJournal::Open(folder_ + "/journal", {}, milliseconds(0));
  }
  void TearDown() override {
    server_ = nullptr;
    std::filesystem::remove_all(folder_);
  }

  void StartJob(int rows, ReplicaServer::Options options, size_t padding = 0) {
    std::vector<BatchRow> all;
    for (int i = 0; i < rows; ++i) {
      std::string id;
      absl::StatusOr<BatchRow> row = reader_.Read(RowText(i, padding), i + 1, &id);
      ASSERT_TRUE(row.ok()) << row.status();
      all.push_back(*std::move(row));
    }
    coordinator_ = std::make_unique<BatchCoordinator>(std::move(all), *journal_, results_, errors_,
                                                      /*ordered=*/false);
    ASSERT_TRUE(coordinator_->Restore({}).ok());
    options.replicas = 2;
    options.context = 5;
    auto server = ReplicaServer::Start(*coordinator_, options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    source_ = std::make_unique<CountedRows>(*coordinator_);
  }
  void Turn(int64_t most = 1000) { ASSERT_TRUE(server_->TakeRows(*source_, most).ok()); }
  bool TurnUntilTaken(int rows, int64_t most = 1000) {
    return Until([&] {
      Turn(most);
      return source_->taken == rows;
    });
  }

  std::unique_ptr<CoordinatorLink> Connect(int replica) {
    auto link = CoordinatorLink::Connect(server_->address(), replica, reader_);
    EXPECT_TRUE(link.ok()) << link.status();
    return link.ok() ? *std::move(link) : nullptr;
  }
  // The next row that comes over the link, which asks for `rows`.
  std::optional<Assignment> NextRow(CoordinatorLink& link, int64_t rows = 1) {
    std::optional<Assignment> next;
    Until([&] {
      link.ReportWorker(rows, 0);
      (void)link.Flush(true);
      Turn();
      next = link.Next();
      return next.has_value();
    });
    return next;
  }
  std::unique_ptr<RawReplica> Raw(const std::string& number) {
    return std::make_unique<RawReplica>(server_->address(), server_->address().token, number);
  }
  static ptrdiff_t OpenFiles() {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
  }
  static std::string MakeFolder() {
    std::string path = ::testing::TempDir() + "serverXXXXXX";
    return mkdtemp(path.data());
  }

  const std::string folder_ = MakeFolder();
  RowReader reader_;
  std::unique_ptr<BatchJournal> journal_;
  ResultFile results_{folder_ + "/results", milliseconds(0)};
  ResultFile errors_{folder_ + "/errors", milliseconds(0)};
  std::unique_ptr<BatchCoordinator> coordinator_;
  std::unique_ptr<CountedRows> source_;
  std::unique_ptr<ReplicaServer> server_;
};

TEST_F(ReplicaServerTest, ManyRowsOverTwoReplicas) {
  constexpr int kRows = 2000;
  StartJob(kRows, {});
  const auto first = Connect(0), second = Connect(1);
  EXPECT_EQ(first->context(), 5);
  const auto work = [](CoordinatorLink& link) {
    for (int64_t steps = 0; !link.all_done() && link.stop_reason().empty(); ++steps) {
      link.ReportWorker(/*rows=*/8, steps);
      while (const std::optional<Assignment> next = link.Next()) {
        EXPECT_EQ(next->tokens.size(), 1u);
        link.AddTokens(next->row.key, 0, {1, 2, 3});
        link.Finish(next->row.key, /*failed=*/next->row.line == 7, absl::StrCat(next->row.id));
      }
      (void)link.Flush(true);
      link.Wait(milliseconds(100));
    }
    EXPECT_TRUE(link.all_done()) << link.stop_reason();
  };
  std::thread a([&] { work(*first); }), b([&] { work(*second); });
  const bool done = Until([&] {
    Turn();
    coordinator_->Wait(milliseconds(10));
    return coordinator_->all_done();
  });
  server_->End(done);
  a.join();
  b.join();
  ASSERT_TRUE(done);
  EXPECT_EQ(coordinator_->counts().finished, kRows - 1);
  EXPECT_EQ(coordinator_->counts().failed, 1);
  EXPECT_EQ(coordinator_->counts().completion_tokens, 3 * kRows);
  EXPECT_EQ(server_->dead(), 0);
}

TEST_F(ReplicaServerTest, RowsGoOutAsFarAsCreditAndShareAllow) {
  StartJob(10, {});
  const auto replica = Raw("0");
  CoordinatorMessage message;
  ASSERT_TRUE(replica->Receive(message));
  EXPECT_EQ(message.welcome().context(), 5);
  ASSERT_TRUE(replica->Ask(5));
  ASSERT_TRUE(TurnUntilTaken(3, /*most=*/3));
  for (int i = 0; i < 20; ++i) Turn(/*most=*/3);
  EXPECT_EQ(source_->taken, 3);
  std::set<int64_t> lines;
  while (lines.size() < 3 && replica->Receive(message)) {
    if (message.has_row()) lines.insert(message.row().line());
  }
  EXPECT_EQ(lines.size(), 3u);
  for (int i = 0; i < 20; ++i) Turn();
  EXPECT_EQ(source_->taken, 5);
}

TEST_F(ReplicaServerTest, AWrongTokenIsRefusedAndLeavesNothing) {
  StartJob(2, {});
  const auto refused = [&](const std::string& token) {
    RawReplica stranger(server_->address(), token, "0");
    CoordinatorMessage message;
    EXPECT_FALSE(stranger.Receive(message));
    EXPECT_EQ(stranger.End().error_code(), grpc::StatusCode::UNAUTHENTICATED) << token;
  };
  EXPECT_EQ(server_->address().token.size(), 32u);
  refused("");  // gRPC opens files of its own at its first call
  const ptrdiff_t before = OpenFiles();
  for (int i = 0; i < 10; ++i) refused(std::string(32, '0'));
  refused(server_->address().token.substr(1));
  refused(server_->address().token + "0");
  EXPECT_TRUE(Until([&] { return OpenFiles() <= before; }));
  EXPECT_EQ(server_->dead(), 0);
  CoordinatorAddress guess = server_->address();
  guess.token = std::string(32, '0');
  const auto link = CoordinatorLink::Connect(guess, 0, reader_);
  EXPECT_EQ(link.status().code(), absl::StatusCode::kUnauthenticated) << link.status();
}

TEST_F(ReplicaServerTest, AStrangerThatSpeaksNoGrpcIsHungUpOn) {
  StartJob(2, {});
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server_->address().port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string text = "{\"secret\": \"" + server_->address().token + "\"}\n";
  ASSERT_EQ(send(fd, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  timeval limit{kLimit.count(), 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  char buffer[4096];
  ssize_t count = 0;
  do {
    count = recv(fd, buffer, sizeof(buffer), 0);  // what HTTP/2 says first, then the end
  } while (count > 0);
  EXPECT_TRUE(count == 0 || errno == ECONNRESET) << errno;
  close(fd);
  EXPECT_EQ(server_->dead(), 0);
}

TEST_F(ReplicaServerTest, ANumberThatNoReplicaHasIsRefused) {
  StartJob(2, {.has_own = true});
  for (const char* number : {"", "0", "2", "-1", "x"}) {
    const auto replica = Raw(number);
    CoordinatorMessage message;
    EXPECT_FALSE(replica->Receive(message)) << number;
    EXPECT_EQ(replica->End().error_code(), grpc::StatusCode::INVALID_ARGUMENT) << number;
  }
  EXPECT_NE(Connect(1), nullptr);
}

TEST_F(ReplicaServerTest, AMessageThatIsTooLongEndsTheLink) {
  StartJob(2, {.max_message_bytes = 100'000});
  const auto longwinded = Raw("0");
  const auto works = Connect(1);
  CoordinatorMessage message;
  ASSERT_TRUE(longwinded->Receive(message));
  ASSERT_TRUE(longwinded->Ask(2));
  ASSERT_TRUE(TurnUntilTaken(2));
  ReplicaMessage result;
  result.mutable_finished()->set_row(RowKey(RowText(0)));
  result.mutable_finished()->set_line(std::string(200'000, 'x'));
  (void)longwinded->Send(result);
  ASSERT_TRUE(Until([&] { return server_->dead() == 1; }));
  EXPECT_EQ(coordinator_->counts().finished, 0);
}

TEST_F(ReplicaServerTest, ResultsOfRowsThatAReplicaDoesNotHaveAreIgnored) {
  StartJob(2, {});
  const auto replica = Raw("0");
  CoordinatorMessage message;
  ASSERT_TRUE(replica->Receive(message));
  for (const uint64_t key : {RowKey(RowText(0)), uint64_t{42}}) {
    ReplicaMessage tokens, finished;
    tokens.mutable_tokens()->set_row(key);
    tokens.mutable_tokens()->add_ids(1);
    finished.mutable_finished()->set_row(key);
    ASSERT_TRUE(replica->Send(tokens));
    ASSERT_TRUE(replica->Send(finished));
  }
  ASSERT_TRUE(replica->Ask(1));
  ASSERT_TRUE(TurnUntilTaken(1));  // messages are read in order: those before were
  EXPECT_EQ(coordinator_->counts().left(), 2);
  EXPECT_EQ(coordinator_->counts().completion_tokens, 0);
}

TEST_F(ReplicaServerTest, RowsOfAReplicaThatVanishesGoToTheOthers) {
  StartJob(2, {});
  auto vanishes = Connect(0);
  const auto works = Connect(1);
  const auto row = NextRow(*vanishes);
  ASSERT_TRUE(row.has_value());
  vanishes->AddTokens(row->row.key, 0, {3, 4});
  (void)vanishes->Flush(true);
  vanishes = nullptr;
  ASSERT_TRUE(Until([&] { return server_->dead() == 1; }));
  EXPECT_EQ(server_->replicas(), 1);
  const auto next = NextRow(*works);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->row.key, row->row.key);
  EXPECT_THAT(next->tokens, ElementsAre(ElementsAre(3)));  // the last is generated again
}

TEST_F(ReplicaServerTest, AReplicaThatMakesNoStepLosesItsRows) {
  StartJob(2, {.stall = milliseconds(50)});
  const auto stalls = Connect(0), works = Connect(1);
  const auto row = NextRow(*stalls);
  ASSERT_TRUE(row.has_value());
  std::vector<int> stalled;
  ASSERT_TRUE(Until([&] {
    Turn();
    stalled = server_->TakeStalled();
    return !stalled.empty();
  }));
  EXPECT_THAT(stalled, ElementsAre(0));
  ASSERT_TRUE(Until([&] { return server_->dead() == 1; }));
  Turn();
  EXPECT_THAT(server_->TakeStalled(), IsEmpty());
  ASSERT_TRUE(Until([&] { return stalls->stop_reason() != ""; }));
  const auto next = NextRow(*works);
  ASSERT_TRUE(next.has_value());
  EXPECT_EQ(next->row.key, row->row.key);
}

TEST_F(ReplicaServerTest, AReplicaThatMakesStepsKeepsItsRows) {
  const milliseconds stall(3000);
  StartJob(2, {.stall = stall});
  const auto replica = Raw("0");
  CoordinatorMessage message;
  ASSERT_TRUE(replica->Receive(message));
  ASSERT_TRUE(replica->Ask(2));
  const Clock::time_point end = Clock::now() + stall * 5 / 4;
  for (int steps = 0; Clock::now() < end; ++steps) {
    ReplicaMessage heartbeat;
    heartbeat.mutable_heartbeat()->set_steps(steps);
    ASSERT_TRUE(replica->Send(heartbeat));
    Turn();
    ASSERT_THAT(server_->TakeStalled(), IsEmpty());
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_EQ(source_->taken, 2);
}

TEST_F(ReplicaServerTest, AReplicaThatDoesNotReadKeepsNobodyWaiting) {
  constexpr int kRows = 40;
  StartJob(kRows, {}, /*padding=*/1 << 20);
  const auto sleeps = Raw("0");
  ASSERT_TRUE(sleeps->Ask(kRows / 2));
  ASSERT_TRUE(TurnUntilTaken(kRows / 2));  // 20 MiB: far more than a connection buffers
  const auto works = Connect(1);
  int done = 0;
  ASSERT_TRUE(Until([&] {
    works->ReportWorker(4, done);
    while (const auto next = works->Next()) {
      works->Finish(next->row.key, false, "{}");
      ++done;
    }
    (void)works->Flush(true);
    Turn(kRows / 2);
    return coordinator_->counts().left() <= kRows / 2;
  }));
  const Clock::time_point began = Clock::now();
  server_->End(/*all_done=*/false);
  EXPECT_LT(Clock::now() - began, seconds(5));
  ASSERT_TRUE(Until([&] { return works->stop_reason() == "the job stops"; }));
}

TEST_F(ReplicaServerTest, AReplicaThatConnectsAfterTheEndLearnsOfIt) {
  StartJob(2, {});
  server_->End(/*all_done=*/true);
  const auto late = Connect(1);
  EXPECT_TRUE(Until([&] { return late->all_done(); }));
}

TEST_F(ReplicaServerTest, ACoordinatorThatGoesStopsItsReplicas) {
  StartJob(2, {});
  const auto link = Connect(0);
  server_ = nullptr;
  EXPECT_TRUE(Until([&] { return link->stop_reason() != ""; }));
  EXPECT_EQ(link->stop_reason(), "the coordinator has gone");
  EXPECT_TRUE(link->Flush(true).ok());
}

TEST_F(ReplicaServerTest, ACoordinatorThatIsNotThere) {
  StartJob(2, {});
  const CoordinatorAddress address = server_->address();
  server_ = nullptr;
  const auto link = CoordinatorLink::Connect(address, 0, reader_);
  EXPECT_TRUE(absl::IsUnavailable(link.status())) << link.status();
  EXPECT_THAT(std::string(link.status().message()),
              HasSubstr("coordinator of the batch job cannot be reached: 127.0.0.1"));
}

TEST_F(ReplicaServerTest, OtherHostsReachItByTheAddressesOfThisHost) {
  if (OwnAddresses().empty()) GTEST_SKIP() << "this host has no network";
  StartJob(2, {.for_other_hosts = true});
  EXPECT_EQ(server_->address().hosts, OwnAddresses());
  EXPECT_NE(Connect(0), nullptr);
}

TEST(CoordinatorAddressTest, AsAWordAndBack) {
  const CoordinatorAddress address = {.token = "00ff", .port = 7, .hosts = {"10.0.0.1", "fd00::1"}};
  EXPECT_EQ(address.ToString(), "00ff@7@10.0.0.1@fd00::1");
  const auto parsed = CoordinatorAddress::Parse(address.ToString());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->token, "00ff");
  EXPECT_EQ(parsed->port, 7);
  EXPECT_THAT(parsed->hosts, ElementsAre("10.0.0.1", "fd00::1"));
  for (const char* bad : {"", "00ff", "00ff@7", "00ff@x@host", "@7@host"}) {
    EXPECT_FALSE(CoordinatorAddress::Parse(bad).ok()) << bad;
  }
}

TEST(TokenTest, EveryTokenIsAnother) {
  const auto a = MakeToken(), b = MakeToken();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_NE(*a, *b);
  EXPECT_TRUE(SameToken(*a, *a));
  EXPECT_FALSE(SameToken(*a, *b));
  EXPECT_FALSE(SameToken(*a, a->substr(1)));
}

}  // namespace
}  // namespace tandem::batch
