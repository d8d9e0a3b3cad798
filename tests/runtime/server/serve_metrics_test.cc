// What the metrics say of ranks and ends that a test of the whole program cannot catch in time.
// That one (tests/e2e/metrics_test.py) has the rest.
#include "runtime/server/serve_metrics.h"

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/server/metrics_server.h"
#include "tests/runtime/server/fake_engine.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class ServeMetricsTest : public ::testing::Test {
 protected:
  void SetModel() {
    ServedModel model;
    model.engine = &engine_;
    model.info.tp_degree = 3;
    model.ranks = [this] { return ranks_; };
    model.engine_metrics = &engine_metrics_;
    metrics_.SetModel(model);
  }

  FakeEngine engine_;
  engine::EngineMetrics engine_metrics_;
  std::vector<RankInfo> ranks_ = {
      {.host = "a", .measured_bytes = 100, .loaded_bytes = 90, .seen = true},
      {.host = "a", .measured_bytes = 200, .loaded_bytes = 180, .seen = true},
      {.host = "b", .measured_bytes = 300, .loaded_bytes = 300}};
  ServeMetrics metrics_{{.version = "1", .build = "1 \"x\"\\\n"}};
};

TEST_F(ServeMetricsTest, BeforeTheModelOnlyTheProcessIsTold) {
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("\ntandem_model_loaded 0\n"));
  EXPECT_THAT(text,
              HasSubstr("\ntandem_build_info{version=\"1\",build=\"1 \\\"x\\\"\\\\\\n\"} 1\n"));
  EXPECT_THAT(text, Not(HasSubstr("tandem_num_requests_running")));
  EXPECT_THAT(text, Not(HasSubstr("tandem_restarts_total")));  // nobody counts them
}

TEST_F(ServeMetricsTest, RanksThatHaveEndedAndThoseOfOtherHosts) {
  SetModel();
  std::string text = metrics_.Text();
  for (const char* rank :
       {"rank=\"0\",host=\"a\"", "rank=\"1\",host=\"a\"", "rank=\"2\",host=\"b\""}) {
    EXPECT_THAT(text, HasSubstr(std::string("tandem_rank_up{") + rank + "} 1\n"));
  }
  EXPECT_THAT(text, HasSubstr("tandem_rank_memory_bytes{rank=\"1\",host=\"a\"} 200\n"));
  EXPECT_THAT(text, Not(HasSubstr("tandem_rank_memory_bytes{rank=\"2\"")));  // not known now
  EXPECT_THAT(text, HasSubstr("tandem_rank_memory_peak_bytes{rank=\"2\",host=\"b\"} 300\n"));

  ranks_[0].measured_bytes = 50;
  ranks_[1].ended = true;
  metrics_.SetLost();
  text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("tandem_rank_up{rank=\"0\",host=\"a\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("tandem_rank_up{rank=\"1\",host=\"a\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("tandem_rank_up{rank=\"2\"")));
  EXPECT_THAT(text, HasSubstr("tandem_rank_memory_bytes{rank=\"0\",host=\"a\"} 50\n"));
  EXPECT_THAT(text, HasSubstr("tandem_rank_memory_peak_bytes{rank=\"0\",host=\"a\"} 100\n"));
  EXPECT_THAT(text, Not(HasSubstr("tandem_rank_memory_bytes{rank=\"1\"")));
}

TEST_F(ServeMetricsTest, TheAgeOfTheLastAnswerIsToldOnceThereWasOne) {
  SetModel();
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr("tandem_rank_heartbeat_age_seconds")));
  engine_metrics_.ranks_answered = engine::EngineMetrics::Clock::now() - std::chrono::seconds(7);
  EXPECT_THAT(metrics_.Text(), HasSubstr("\ntandem_rank_heartbeat_age_seconds 7."));
}

TEST_F(ServeMetricsTest, PartsOfStepsOnlyWhereTheyAreTimed) {
  SetModel();
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr("tandem_step_seconds_total")));
}

TEST_F(ServeMetricsTest, TheAddressIsTheServersAloneAndItStopsAtOnce) {
  auto server = MetricsServer::Start("127.0.0.1:0", [this] { return metrics_.Text(); });
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_GT((*server)->port(), 0);
  const auto second =
      MetricsServer::Start("127.0.0.1:" + std::to_string((*server)->port()), [] { return ""; });
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  const auto begin = std::chrono::steady_clock::now();
  (*server)->Stop();
  (*server)->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

}  // namespace
}  // namespace tandem::server
