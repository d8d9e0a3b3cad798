// Certificates and tokens that are replaced while a server runs: in any order, damaged, missing, or
// by something that is no file.
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/server/bearer_tokens.h"
#include "runtime/server/grpc_server.h"
#include "runtime/server/health_service.h"
#include "tests/runtime/server/raw_connection.h"
#include "tests/runtime/server/test_certificates.h"

namespace tandem::server {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::HasSubstr;

class RenewalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = ::testing::TempDir() + "renewal_test_" + std::to_string(getpid());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    before_ = spdlog::default_logger();
    spdlog::set_default_logger(std::make_shared<spdlog::logger>(
        "test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_)));
  }
  void TearDown() override {
    server_.reset();
    spdlog::set_default_logger(before_);
    fs::remove_all(folder_);
  }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  void Write(const std::string& name, const std::string& text) {
    fs::remove_all(Path(name));
    std::ofstream(Path(name)) << text;
  }
  void WritePair(const TestCertificate& pair) {
    Write("cert", pair.certificate);
    Write("key", pair.key);
  }

  void Start(const std::string& client_ca = "") {
    GrpcServerOptions options;
    options.listen = "127.0.0.1:0";
    options.tls = {.certificate = Path("cert"),
                   .key = Path("key"),
                   .client_ca = client_ca,
                   .read_again = milliseconds(0)};
    auto server = GrpcServer::Start(options, {&health_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  // What a new connection is shown.
  std::string Shown() { return RawTls(server_->port()).ServerName(); }

  // The log since the last call.
  std::string Logged() {
    std::string text = log_.str();
    log_.str("");
    return text;
  }
  // After the files were changed to what cannot be used: the old certificate goes on, and one line
  // says why.
  void ExpectKept(const std::string& shown, const std::string& why) {
    for (int i = 0; i < 3; ++i) EXPECT_EQ(Shown(), shown) << why;
    const std::string log = Logged();
    EXPECT_THAT(log, HasSubstr(why));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
  }

  const TestCertificate one_ = MakeCertificate("one");
  const TestCertificate two_ = MakeCertificate("two");
  std::string folder_;
  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> before_;
  HealthService health_{{}};
  std::unique_ptr<GrpcServer> server_;
};

TEST_F(RenewalTest, FilesMayBeReplacedInAnyOrder) {
  WritePair(one_);
  Start();
  EXPECT_EQ(Shown(), "one");
  EXPECT_EQ(Logged(), "");
  Write("key", two_.key);
  ExpectKept("one", "belongs to another certificate");
  Write("cert", two_.certificate);
  EXPECT_EQ(Shown(), "two");
  EXPECT_THAT(Logged(), HasSubstr("new connections get the certificate"));
  Write("cert", one_.certificate);
  ExpectKept("two", "belongs to another certificate");
  Write("key", one_.key);
  EXPECT_EQ(Shown(), "one");
}

TEST_F(RenewalTest, WhatCannotBeUsedKeepsTheLastPair) {
  WritePair(one_);
  Start();
  const std::string half = two_.certificate.substr(0, two_.certificate.size() / 2);
  Write("cert", "nothing");
  ExpectKept("one", "found no certificate");
  Write("cert", "");
  ExpectKept("one", "found no certificate");
  Write("cert", half);
  ExpectKept("one", "certificate 1 cannot be read");
  Write("cert", one_.certificate + half);
  ExpectKept("one", "certificate 2 cannot be read");
  fs::remove(Path("cert"));
  ExpectKept("one", "No such file");
  ASSERT_EQ(mkfifo(Path("cert").c_str(), 0600), 0);
  ExpectKept("one", "found no regular file");
  // The same message is not logged again.
  fs::remove(Path("cert"));
  fs::create_directory(Path("cert"));
  EXPECT_EQ(Shown(), "one");
  fs::remove(Path("cert"));
  fs::create_symlink("/dev/zero", Path("cert"));
  EXPECT_EQ(Shown(), "one");
  Write("cert", one_.certificate);
  Write("key", half);
  ExpectKept("one", "found no key");
  WritePair(two_);
  EXPECT_EQ(Shown(), "two");
}

TEST_F(RenewalTest, ADamagedClientCaKeepsWhatWasValid) {
  WritePair(one_);
  Write("ca", one_.certificate);
  Start(Path("ca"));
  EXPECT_EQ(Shown(), "one");
  WritePair(two_);
  Write("ca", "nothing");
  ExpectKept("one", "--tls-client-ca");
  Write("ca", two_.certificate);
  EXPECT_EQ(Shown(), "two");
}

TEST_F(RenewalTest, ATokenFileThatIsNoFileKeepsTheTokens) {
  Write("tokens", "first\n");
  const auto tokens = BearerTokens::FromFile(Path("tokens"));
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  const std::string first = "Bearer first";
  const std::string second = "Bearer second";
  const auto make_fifo = [this] { ASSERT_EQ(mkfifo(Path("tokens").c_str(), 0600), 0); };
  const auto make_folder = [this] { fs::create_directory(Path("tokens")); };
  const auto make_device = [this] { fs::create_symlink("/dev/zero", Path("tokens")); };
  const auto make_nothing = [] {};
  for (const std::function<void()>& replace :
       {std::function<void()>(make_fifo), {make_folder}, {make_device}, {make_nothing}}) {
    Logged();
    fs::remove_all(Path("tokens"));
    replace();
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ((*tokens)->CheckHeader(&second).code(), absl::StatusCode::kUnauthenticated);
      EXPECT_TRUE((*tokens)->CheckHeader(&first).ok());
    }
    const std::string log = Logged();
    EXPECT_THAT(log, HasSubstr("stay valid"));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
    EXPECT_EQ(BearerTokens::FromFile(Path("tokens")).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
  Write("tokens", "second\n");
  EXPECT_TRUE((*tokens)->CheckHeader(&second).ok());
}

}  // namespace
}  // namespace tandem::server
