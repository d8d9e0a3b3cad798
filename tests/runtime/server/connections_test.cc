// A gRPC port under abuse: floods, silent clients, lost descriptors, limits.
#include <sys/resource.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "runtime/server/connection_listener.h"
#include "runtime/server/descriptor_limit.h"
#include "runtime/server/grpc_server.h"
#include "runtime/server/health_service.h"
#include "runtime/server/metrics_server.h"
#include "tests/runtime/server/raw_connection.h"
#include "tests/runtime/server/test_certificates.h"

namespace tandem::server {
namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using ::testing::HasSubstr;

template <typename Condition>
bool Becomes(Condition condition, milliseconds limit = seconds(20)) {
  const auto deadline = steady_clock::now() + limit;
  while (!condition()) {
    if (steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

// Connections of a process of its own, so that the server's limit of descriptors is not theirs.
class OtherProcess {
 public:
  // Opens `connections` of them and holds them until the end.
  OtherProcess(int port, int connections) {
    int ready[2];
    int hold[2];
    if (pipe(ready) != 0 || pipe(hold) != 0) return;
    pid_ = fork();
    if (pid_ == 0) {
      RaiseDescriptorLimit();
      close(hold[1]);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(static_cast<uint16_t>(port));
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      char opened = 1;
      for (int i = 0; i < connections; ++i) {
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
          opened = 0;
        }
      }
      [[maybe_unused]] ssize_t done = write(ready[1], &opened, 1);
      done = read(hold[0], &opened, 1);  // until the other end is closed
      _exit(0);
    }
    close(ready[1]);
    close(hold[0]);
    hold_ = hold[1];
    char opened = 0;
    opened_ = read(ready[0], &opened, 1) == 1 && opened == 1;
    close(ready[0]);
  }
  ~OtherProcess() {
    close(hold_);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }
  bool opened() const { return opened_; }

 private:
  pid_t pid_ = -1;
  int hold_ = -1;
  bool opened_ = false;
};

class ConnectionsTest : public ::testing::Test {
 protected:
  void SetUp() override { getrlimit(RLIMIT_NOFILE, &limit_); }
  void TearDown() override {
    setrlimit(RLIMIT_NOFILE, &limit_);
    if (watch_ != nullptr) {
      watch_context_->TryCancel();
      watch_->Finish();
    }
    if (server_ != nullptr) {
      health_.Shutdown();
      server_->Shutdown(std::chrono::system_clock::now());
    }
  }

  // Of descriptors, for this process.
  void SetLimit(rlim_t limit) {
    const rlimit lower{limit, limit_.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lower), 0);
  }

  void Start(GrpcServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    auto server = GrpcServer::Start(options, {&health_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  std::unique_ptr<Health::Stub> NewStub() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
    return Health::NewStub(grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(server_->port()),
                                                     grpc::InsecureChannelCredentials(),
                                                     arguments));
  }

  // Whether a call on a new connection is answered.
  bool Answers() const {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(5));
    HealthCheckResponse response;
    return NewStub()->Check(&context, HealthCheckRequest(), &response).ok();
  }

  // A stream that is open while the rest happens.
  void OpenStream() {
    watch_stub_ = NewStub();
    watch_context_ = std::make_unique<grpc::ClientContext>();
    watch_context_->set_deadline(std::chrono::system_clock::now() + seconds(60));
    watch_ = watch_stub_->Watch(watch_context_.get(), HealthCheckRequest());
    HealthCheckResponse response;
    ASSERT_TRUE(watch_->Read(&response));
  }
  bool StreamGoesOn() {
    serving_ = !serving_;
    health_.SetServing(serving_);
    HealthCheckResponse response;
    return watch_->Read(&response) &&
           response.status() ==
               (serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
  }

  HealthService health_{{}};
  std::unique_ptr<GrpcServer> server_;

 private:
  rlimit limit_{};
  bool serving_ = false;
  std::unique_ptr<Health::Stub> watch_stub_;
  std::unique_ptr<grpc::ClientContext> watch_context_;
  std::unique_ptr<grpc::ClientReader<HealthCheckResponse>> watch_;
};

TEST_F(ConnectionsTest, SurvivesThousandsThatConnectAndReset) {
  SetLimit(1024);
  Start();
  OpenStream();
  for (int i = 0; i < 3000; ++i) RawConnection(server_->port()).Reset();
  EXPECT_TRUE(Answers());
  EXPECT_TRUE(StreamGoesOn());
  // The two clients' connections stay; all others are gone.
  EXPECT_TRUE(Becomes([this] { return server_->open_connections() <= 2; }));
}

TEST_F(ConnectionsTest, MoreIdleConnectionsThanDescriptorsAreClosedAtTheLimit) {
  SetLimit(1024);
  Start();
  OpenStream();
  {
    const OtherProcess flood(server_->port(), 1200);
    EXPECT_TRUE(flood.opened());
    EXPECT_TRUE(Becomes([this] { return server_->open_connections() == 1024 - 256; }));
    EXPECT_TRUE(StreamGoesOn());
  }
  EXPECT_TRUE(Answers());
  EXPECT_TRUE(StreamGoesOn());
}

TEST_F(ConnectionsTest, RunningOutOfDescriptorsIsNotTheEnd) {
  Start();
  OpenStream();
  // Far fewer than the limits that the server has computed.
  SetLimit(100);
  {
    const OtherProcess flood(server_->port(), 300);
    EXPECT_TRUE(flood.opened());
    EXPECT_TRUE(StreamGoesOn());
  }
  EXPECT_TRUE(Becomes([this] { return server_->open_connections() <= 1; }));
  EXPECT_TRUE(Answers());
  EXPECT_TRUE(StreamGoesOn());
}

TEST_F(ConnectionsTest, AConnectionAboveTheLimitIsClosedAndALaterOneIsTaken) {
  Start({.connections = {2, 2}});
  std::list<RawConnection> held;
  for (int i = 0; i < 2; ++i) held.emplace_back(server_->port()).Send(kHttp2Begin);
  ASSERT_TRUE(Becomes([this] { return server_->open_connections() == 2; }));
  EXPECT_TRUE(RawConnection(server_->port()).EndsWithin(seconds(10)));
  held.clear();
  EXPECT_TRUE(Becomes([this] { return server_->open_connections() == 0; }));
  EXPECT_TRUE(Answers());
}

TEST_F(ConnectionsTest, WhoSendsNoHttp2IsDisconnected) {
  Start({.handshake_timeout = milliseconds(300)});
  const RawConnection silent(server_->port());
  const RawConnection partial(server_->port());
  partial.Send(kHttp2Begin.substr(0, 20));
  const RawConnection other(server_->port());
  other.Send("GET / HTTP/1.1\r\n\r\n");
  for (const RawConnection* one : {&silent, &partial, &other}) {
    EXPECT_TRUE(one->EndsWithin(seconds(10)));
  }
  EXPECT_TRUE(Answers());
}

TEST_F(ConnectionsTest, AConnectionWithoutCallsIsClosedAfterTheIdleTime) {
  Start({.max_connection_idle = milliseconds(300)});
  const RawConnection idle(server_->port());
  idle.Send(kHttp2Begin);
  OpenStream();
  EXPECT_TRUE(idle.EndsWithin(seconds(10)));
  EXPECT_TRUE(StreamGoesOn());
}

TEST_F(ConnectionsTest, WhoSendsNoTlsIsDisconnected) {
  const std::string folder = ::testing::TempDir() + "connections_test";
  std::filesystem::create_directories(folder);
  const TestCertificate made = MakeCertificate("server");
  std::ofstream(folder + "/cert") << made.certificate;
  std::ofstream(folder + "/key") << made.key;
  Start({.tls = {.certificate = folder + "/cert", .key = folder + "/key", .client_ca = ""},
         .handshake_timeout = milliseconds(300)});
  const RawConnection silent(server_->port());
  const RawConnection partial(server_->port());
  partial.Send(std::string_view("\x16\x03\x01\x02\x00\x01", 6));  // the begin of a ClientHello
  const RawTls no_http2(server_->port());
  EXPECT_TRUE(no_http2.connected());
  EXPECT_EQ(no_http2.ServerName(), "server");
  EXPECT_TRUE(silent.EndsWithin(seconds(10)));
  EXPECT_TRUE(partial.EndsWithin(seconds(10)));
  EXPECT_TRUE(no_http2.connection().EndsWithin(seconds(10)));
  std::filesystem::remove_all(folder);
}

// Connections that are counted and closed at once, unless `hold` holds up the listener's thread.
class ListenerTest : public ::testing::Test {
 protected:
  void Start(ListenerOptions options) {
    options.listen = "127.0.0.1:0";
    auto opened = ConnectionListener::Open(options);
    ASSERT_TRUE(opened.ok()) << opened.status();
    listener_ = *std::move(opened);
    listener_->Start([this](int fd, const sockaddr_storage&, socklen_t) {
      close(fd);
      ++taken_;
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !hold_; });
    });
  }
  void Hold(bool hold) {
    std::lock_guard lock(mutex_);
    hold_ = hold;
    changed_.notify_all();
  }
  bool Connect() { return RawConnection(listener_->port()).EndsWithin(seconds(10)); }

  std::atomic<int> taken_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool hold_ = false;
  std::unique_ptr<ConnectionListener> listener_;
};

TEST_F(ListenerTest, ASocketThatStoppedListeningIsOpenedAgainOnTheSamePort) {
  Start({});
  const int port = listener_->port();
  EXPECT_TRUE(Connect());
  for (const int fd : listener_->listening_fds()) ASSERT_EQ(shutdown(fd, SHUT_RDWR), 0);
  EXPECT_TRUE(Becomes([&] { return RawConnection(port).connected(); }));
  EXPECT_TRUE(Connect());
}

TEST_F(ListenerTest, TheSelfTestReplacesAThreadThatIsStuck) {
  Start({.patience = milliseconds(100)});
  Hold(true);
  const RawConnection first(listener_->port());
  ASSERT_TRUE(Becomes([this] { return taken_ == 1; }));
  const RawConnection second(listener_->port());
  EXPECT_TRUE(Becomes([this] { return taken_ == 2; }));
  Hold(false);
  EXPECT_TRUE(Connect());
}

TEST_F(ListenerTest, StopClosesThePort) {
  Start({});
  listener_->Stop();
  EXPECT_FALSE(RawConnection(listener_->port()).connected());
}

bool Scrapes(int port) {
  const RawConnection connection(port);
  connection.Send("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  char begin[16] = "";
  pollfd polled{connection.fd(), POLLIN, 0};
  return poll(&polled, 1, 5000) > 0 && recv(connection.fd(), begin, 15, 0) == 15 &&
         std::string(begin) == "HTTP/1.1 200 OK";
}

TEST(MetricsServerTest, ConnectionsThatDripMakeRoom) {
  const auto server = MetricsServer::Start("127.0.0.1:0", [] { return std::string("text"); },
                                           {.connections = {4, 4}, .spared = milliseconds(300)});
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  EXPECT_TRUE(Scrapes(port));
  std::list<RawConnection> drips;
  for (int i = 0; i < 4; ++i) drips.emplace_back(port).Send("GET /metrics HTTP/1.1\r\n");
  EXPECT_TRUE(Becomes([&] {
    for (const RawConnection& drip : drips) drip.Send("x");
    return Scrapes(port);
  }));
}

class TableTest : public ::testing::Test {
 protected:
  ~TableTest() override {
    for (const int fd : fds_) close(fd);
  }
  int NewSocket() { return *fds_.insert(socket(AF_UNIX, SOCK_STREAM, 0)).first; }
  void Close(int fd) {
    close(fd);
    fds_.erase(fd);
  }
  static sockaddr_storage Ipv4(uint32_t address) {
    sockaddr_storage peer{};
    auto& ipv4 = reinterpret_cast<sockaddr_in&>(peer);
    ipv4.sin_family = AF_INET;
    ipv4.sin_addr.s_addr = htonl(address);
    return peer;
  }
  static sockaddr_storage Ipv6(std::initializer_list<uint8_t> bytes) {
    sockaddr_storage peer{};
    auto& ipv6 = reinterpret_cast<sockaddr_in6&>(peer);
    ipv6.sin6_family = AF_INET6;
    std::copy(bytes.begin(), bytes.end(), ipv6.sin6_addr.s6_addr);
    return peer;
  }
  std::set<int> fds_;
};

TEST_F(TableTest, ClosedConnectionsMakeRoomWithoutBeingReported) {
  using Verdict = ConnectionTable::Verdict;
  ConnectionTable table({.all = 3, .per_peer = 2});
  const sockaddr_storage a = Ipv4(0x0a000001);
  const sockaddr_storage b = Ipv4(0x0a000002);
  const int first = NewSocket();
  EXPECT_EQ(table.Add(first, a), Verdict::kTaken);
  EXPECT_EQ(table.Add(NewSocket(), a), Verdict::kTaken);
  EXPECT_EQ(table.Add(NewSocket(), a), Verdict::kTooManyOfPeer);
  EXPECT_EQ(table.Add(NewSocket(), b), Verdict::kTaken);
  EXPECT_EQ(table.Add(NewSocket(), b), Verdict::kTooMany);
  EXPECT_EQ(table.Open(), 3);
  Close(first);
  // The descriptor is in use again, for something else.
  EXPECT_EQ(NewSocket(), first);
  EXPECT_EQ(table.Open(), 2);
  EXPECT_EQ(table.Add(NewSocket(), a), Verdict::kTaken);
}

TEST_F(TableTest, APeerIsAnIpv4AddressOrAnIpv6Network) {
  EXPECT_EQ(PeerKey(Ipv4(INADDR_LOOPBACK)), "");
  EXPECT_EQ(PeerKey(Ipv4(0x7f010203)), "");
  EXPECT_NE(PeerKey(Ipv4(0x0a000001)), PeerKey(Ipv4(0x0a000002)));
  EXPECT_EQ(PeerKey(Ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})), "");
  EXPECT_EQ(PeerKey(Ipv6({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1})),
            PeerKey(Ipv4(0x0a000001)));
  EXPECT_EQ(PeerKey(Ipv6({32, 1, 1, 2, 3, 4, 5, 6, 1})),
            PeerKey(Ipv6({32, 1, 1, 2, 3, 4, 5, 6, 2})));
  EXPECT_NE(PeerKey(Ipv6({32, 1, 1, 2, 3, 4, 5, 6})), PeerKey(Ipv6({32, 1, 1, 2, 3, 4, 5, 7})));
  sockaddr_storage unix_peer{};
  unix_peer.ss_family = AF_UNIX;
  EXPECT_EQ(PeerKey(unix_peer), "");
}

absl::StatusOr<ListeningSockets> Open(const std::string& listen) {
  return ListeningSockets::Open(listen, AddressForms::kTcpOrUnix);
}

TEST(ListeningSocketsTest, AnAddressIsTheSocketsAlone) {
  const auto first = Open("localhost:0");
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string taken = "127.0.0.1:" + std::to_string(first->port());
  EXPECT_THAT(Open(taken).status().message(),
              HasSubstr("cannot listen on " + taken + ": Address already in use"));
  for (const char* bad : {"", "50051", "::1:50051", "127.0.0.1:65536", "127.0.0.1:x", "unix:"}) {
    EXPECT_EQ(Open(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(ListeningSocketsTest, AUnixSocketIsReplacedOnlyIfNobodyListens) {
  const std::string path = ::testing::TempDir() + "listening_sockets_test";
  unlink(path.c_str());
  {
    const auto first = Open("unix:" + path);
    ASSERT_TRUE(first.ok()) << first.status();
    EXPECT_THAT(Open("unix:" + path).status().message(), HasSubstr("Address already in use"));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  // As a killed server leaves it.
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  close(fd);
  EXPECT_TRUE(Open("unix:" + path).ok());
  std::ofstream(path) << "a file";
  EXPECT_THAT(Open("unix:" + path).status().message(), HasSubstr("Address already in use"));
  EXPECT_TRUE(std::filesystem::exists(path));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tandem::server
