#include "runtime/rank/step_trace.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "parallel/thread_communicator.h"

namespace tandem::rank {
namespace {

using parallel::StepPart;
using Json = nlohmann::json;

// Slices of one rank by name, in the order written.
std::vector<Json> SlicesOf(const Json& trace, int rank) {
  std::vector<Json> slices;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("ph") == "X" && event.at("pid") == rank) slices.push_back(event);
  }
  return slices;
}

TEST(StepTrace, PutsAllRanksOnOneClockWithPartsInsideTheirSteps) {
  std::vector<RankTrace> traces(2);
  traces[0].host = "alpha";
  traces[0].slices = {{5000, 1000, StepPart::kIdle, 0},
                      {6000, 250, StepPart::kScheduling, 1},
                      {6250, 1500, StepPart::kQkv, 1},
                      {7750, 100, StepPart::kIdle, 1}};
  traces[1].host = "quo\"ted";
  traces[1].clock_offset_ns = 1000000;
  traces[1].slices = {{1006300, 1200, StepPart::kAllReduce, 1}};
  std::ostringstream out;
  WriteTraceJson(traces, out);
  const Json trace = Json::parse(out.str());

  const std::vector<Json> first = SlicesOf(trace, 0);
  ASSERT_EQ(first.size(), 5);
  EXPECT_EQ(first[0].at("name"), "step 1");  // without the idling before and after
  EXPECT_EQ(first[0].at("ts"), 1.0);         // in microseconds from the first slice of all
  EXPECT_EQ(first[0].at("dur"), 1.75);
  EXPECT_EQ(first[1].at("name"), "idle");
  EXPECT_EQ(first[1].at("ts"), 0.0);
  EXPECT_EQ(first[3].at("name"), "qkv");
  EXPECT_EQ(first[3].at("ts"), 1.25);
  EXPECT_EQ(first[3].at("dur"), 1.5);
  EXPECT_EQ(first[3].at("args").at("step"), 1);
  const std::vector<Json> second = SlicesOf(trace, 1);
  ASSERT_EQ(second.size(), 2);
  EXPECT_EQ(second[1].at("name"), "all_reduce");
  EXPECT_EQ(second[1].at("ts"), 1.3);

  std::vector<std::string> names;
  for (const Json& event : trace.at("traceEvents")) {
    if (event.at("name") == "process_name") names.push_back(event.at("args").at("name"));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"rank 0 on alpha", "rank 1 on quo\"ted"}));
}

TEST(StepTrace, AWorldWithoutSlicesIsStillATrace) {
  std::vector<RankTrace> traces(1);
  std::ostringstream out;
  WriteTraceJson(traces, out);
  EXPECT_EQ(Json::parse(out.str()).at("traceEvents").size(), 2);
}

TEST(StepTrace, RankZeroWritesWhatAllRanksDid) {
  const std::string file = ::testing::TempDir() + "/trace.json";
  parallel::ThreadWorld world(3);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto communicator = world.Make(rank);
      auto trace = StepTrace::Start(communicator->control(), file);
      ASSERT_TRUE(trace.ok()) << trace.status();
      (*trace)->timer()->BeginStep();
      (*trace)->timer()->Enter(StepPart::kFfn);
      (*trace)->timer()->Enter(StepPart::kIdle);
      EXPECT_TRUE((*trace)->Write(communicator->control()).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Json trace = Json::parse(std::ifstream(file));
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(SlicesOf(trace, rank).back().at("name"), "ffn");
  }
}

TEST(StepTrace, AFileThatCannotBeWrittenIsFoundAtTheStart) {
  parallel::SelfGroup communicator;
  const auto trace = StepTrace::Start(communicator, "/nonexistent/trace.json");
  EXPECT_EQ(trace.status(),
            absl::InvalidArgumentError("--trace /nonexistent/trace.json: cannot be written"));
}

}  // namespace
}  // namespace tandem::rank
