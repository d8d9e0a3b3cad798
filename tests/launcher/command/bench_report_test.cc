#include "launcher/command/bench_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/plan/step_work.h"

namespace tandem::launcher {
namespace {

using ::testing::HasSubstr;

BenchReport Report() {
  BenchReport report;
  report.model = "models/<one>";
  report.weights = "int8";
  report.peak_instruction = "vpdpbusd";
  // The median is not moved by one bad minute.
  report.ceilings = {{10e9, 100e9}, {1e9, 1e9}, {12e9, 120e9}};
  report.points = {{BenchPhase::kDecode, 16, 128}};
  report.runs.resize(1);
  for (const double seconds : {2.0, 1.0, 8.0}) {
    BenchRun run;
    run.seconds = seconds;
    // A machine at half its speed: the fraction of such a run is as good as another's.
    run.ceilings = {20e9 / seconds, 200e9 / seconds};
    run.steps = 2;
    run.tokens = 32;
    run.bytes = 10e9;
    run.operations = 50e9;
    run.parts[static_cast<size_t>(parallel::StepPart::kFfn)] = seconds / 2;
    report.runs[0].push_back(run);
  }
  report.ranks = {{.planned_bytes = 200, .peak_memory = 190}};
  return report;
}

TEST(BenchReport, JsonHasMediansAndFractionsOfTheCeilings) {
  const auto json = nlohmann::json::parse(BenchJson(Report()));
  EXPECT_DOUBLE_EQ(json.at("read_gbps"), 10);
  EXPECT_DOUBLE_EQ(json.at("peak_gops"), 100);
  const auto& result = json.at("results").at(0);
  EXPECT_EQ(result.at("phase"), "decode");
  EXPECT_EQ(result.at("batch"), 16);
  EXPECT_EQ(result.at("context"), 128);
  EXPECT_DOUBLE_EQ(result.at("tokens_per_s"), 16);
  EXPECT_DOUBLE_EQ(result.at("gbps"), 5);
  EXPECT_DOUBLE_EQ(result.at("bandwidth_fraction"), 0.5);
  EXPECT_DOUBLE_EQ(result.at("gops"), 25);
  EXPECT_DOUBLE_EQ(result.at("peak_fraction"), 0.25);
  EXPECT_DOUBLE_EQ(result.at("parts").at("ffn"), 1);
  EXPECT_EQ(result.at("parts").size(), static_cast<size_t>(parallel::kStepParts));
  EXPECT_EQ(result.at("runs").size(), 3);
  EXPECT_EQ(result.at("runs_read_gbps"), (std::vector<double>{10, 20, 2.5}));
  EXPECT_EQ(result.at("runs_peak_gops"), (std::vector<double>{100, 200, 25}));
}

// One run in a bad minute has the fraction of the others: of the ceilings of that minute.
TEST(BenchReport, FractionsAreOfARunsOwnCeilings) {
  BenchReport report = Report();
  report.runs[0][2].ceilings = {5e9, 25e9};
  const BenchResult result = Summarize(report)[0];
  EXPECT_DOUBLE_EQ(result.bandwidth_fraction, 0.5);  // of 0.5, 0.5 and 0.25
  EXPECT_DOUBLE_EQ(result.peak_fraction, 0.25);
  report.runs[0].pop_back();
  report.runs[0][1].ceilings.read = 10e9;
  EXPECT_DOUBLE_EQ(Summarize(report)[0].bandwidth_fraction, 0.75);  // of 0.5 and 1
}

TEST(BenchReport, StreamedWeightsHaveTheirOwnRate) {
  BenchReport report = Report();
  EXPECT_FALSE(
      nlohmann::json::parse(BenchJson(report)).at("results").at(0).contains("stream_gbps"));
  report.streamed = 4e9;  // in each of two steps
  const auto unmeasured = nlohmann::json::parse(BenchJson(report)).at("results").at(0);
  EXPECT_DOUBLE_EQ(unmeasured.at("stream_gbps"), 4);
  EXPECT_TRUE(unmeasured.at("stream_fraction").is_null());
  for (BenchRun& run : report.runs[0]) run.ceilings.stream = 10e9 / run.seconds;
  EXPECT_DOUBLE_EQ(
      nlohmann::json::parse(BenchJson(report)).at("results").at(0).at("stream_fraction"), 0.8);
  EXPECT_THAT(BenchTable(report), HasSubstr("weights streamed at 4.00 GB/s, 80% of copies"));
}

TEST(BenchReport, TheTableShowsFractionsNextToSpeeds) {
  const std::string table = BenchTable(Report());
  EXPECT_THAT(table, HasSubstr("16.0"));
  EXPECT_THAT(table, HasSubstr("50%"));
  EXPECT_THAT(table, HasSubstr("25%"));
}

TEST(BenchReport, TheChartEscapesNames) {
  const std::string chart = BenchChart(Report());
  EXPECT_THAT(chart, HasSubstr("models/&lt;one&gt;"));
  EXPECT_THAT(chart, HasSubstr("decode, 16 x 128 tokens"));
}

TEST(BenchReport, MedianOfAnEvenNumberIsTheMiddle) {
  EXPECT_DOUBLE_EQ(Median({4, 1, 3, 2}), 2.5);
  EXPECT_DOUBLE_EQ(Median({7}), 7);
}

TEST(BenchWork, CountsWhatAStepExecutesAndTouches) {
  loader::ModelConfig config;
  config.hidden_size = 8;
  config.intermediate_size = 16;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 2;
  config.vocab_size = 100;
  plan::ModelWork model = plan::OperationsOf(config);
  // q, k, v: 16 x 8; output: 8 x 8; gate, up, down: 3 x 16 x 8; two layers, two operations.
  EXPECT_DOUBLE_EQ(model.linear_token, 2.0 * 2 * (16 * 8 + 8 * 8 + 3 * 16 * 8));
  // Scores and values of 4 heads of 2.
  EXPECT_DOUBLE_EQ(model.attention_position, 2.0 * 2 * 2 * 8);
  EXPECT_DOUBLE_EQ(model.head_row, 2.0 * 100 * 8);
  model.weights = 1000;
  model.head = 100;
  model.kv_token = 10;

  // Two prompt tokens at 3 and 4, one decoding token at 9; logits of that one alone.
  engine::StepPlan plan;
  plan.token_ids = {1, 2, 3};
  plan.positions = {3, 4, 9};
  plan.context_lens = {5, 10};
  plan.logits_indices = {2};
  const plan::StepWork work = plan::CountStep(model, plan);
  EXPECT_EQ(work.tokens, 3);
  EXPECT_DOUBLE_EQ(work.bytes, 1000 + 100 + 15 * 10);
  EXPECT_DOUBLE_EQ(work.operations, 3 * model.linear_token +
                                        (4 + 5 + 10) * model.attention_position + model.head_row);
  plan.logits_indices.clear();
  EXPECT_DOUBLE_EQ(plan::CountStep(model, plan).bytes, 1000 + 15 * 10);
}

// Each step is bound by its own ceiling: a sum over both kinds would hide one of them.
TEST(BenchWork, StepsAreBoundOneByOne) {
  class Nothing : public engine::StepExecutor {
    absl::Status Execute(const engine::StepPlan&, std::span<float>) override {
      return absl::OkStatus();
    }
  } nothing;
  plan::ModelWork model;
  model.weights = 1000;
  model.linear_token = 2000;
  plan::CountingExecutor executor(nothing, model);
  engine::StepPlan decode;
  decode.token_ids.assign(1, 1);
  decode.positions.assign(1, 0);
  engine::StepPlan prefill;
  prefill.token_ids.assign(64, 1);
  prefill.positions.assign(64, 0);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(executor.Execute(decode, {}).ok());
  ASSERT_TRUE(executor.Execute(prefill, {}).ok());
  // A step of one token: 1 s of reading, 0.1 s of arithmetic; of 64: 6.4 s of arithmetic.
  EXPECT_DOUBLE_EQ(executor.SecondsAt(1000, 20000), 3 * 1.0 + 6.4);
  // All weights streamed at half that rate: 2 s a step.
  model.streamed = 1000;
  plan::CountingExecutor streaming(nothing, model);
  ASSERT_TRUE(streaming.Execute(decode, {}).ok());
  ASSERT_TRUE(streaming.Execute(prefill, {}).ok());
  EXPECT_DOUBLE_EQ(streaming.SecondsAt(1000, 20000, 500), 2.0 + 6.4);
}

}  // namespace
}  // namespace tandem::launcher
