#include "launcher/command/plan_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/plan/device_list.h"

namespace tandem::launcher {
namespace {

constexpr uint64_t kGib = uint64_t{1} << 30;

TEST(ParseDevices, GroupsUnitsAndBandwidths) {
  const auto devices = plan::ParseDevices("2x24GiB, 1x16gb,1.5TiB,512m", {1008, 288, 80, 20});
  ASSERT_TRUE(devices.ok()) << devices.status();
  ASSERT_EQ(devices->size(), 5u);
  EXPECT_EQ((*devices)[0].memory, 24 * kGib);
  EXPECT_EQ((*devices)[1].memory, 24 * kGib);
  EXPECT_EQ((*devices)[2].memory, 16 * kGib);
  EXPECT_EQ((*devices)[3].memory, 1536 * kGib);
  EXPECT_EQ((*devices)[4].memory, kGib / 2);
  EXPECT_DOUBLE_EQ((*devices)[1].bandwidth, 1008e9);
  EXPECT_DOUBLE_EQ((*devices)[2].bandwidth, 288e9);
}

TEST(ParseDevices, RefusesWithTheGroup) {
  for (const char* text : {"", "2x", "x24GiB", "0x24GiB", "-1x24GiB", "24QiB", "2x24GiB,", "24",
                           "257x1GiB", "200x1GiB,100x1GiB", "1e30GiB", "nanGiB", "2x-4GiB"}) {
    const auto devices = plan::ParseDevices(text, {600});
    EXPECT_FALSE(devices.ok()) << text;
    EXPECT_THAT(std::string(devices.status().message()),
                ::testing::StartsWith("--devices: found '"));
  }
  const auto devices = plan::ParseDevices("2x24GiB,1x16GiB", {1, 2, 3});
  EXPECT_THAT(std::string(devices.status().message()),
              ::testing::StartsWith("--bandwidth: found 3 values, expected one or 2"));
}

plan::FormatPlan Plan() {
  plan::FormatPlan plan = {.format = plan::Format::kInt8, .tp = 3, .fits = false};
  for (int r = 0; r < 3; ++r) {
    plan::RankPlan rank;
    rank.device = 2 * kGib;
    rank.bytes = {.weights = r == 2 ? 3 * kGib : kGib,
                  .embedding = 4,
                  .kv = 5,
                  .workspace = 6,
                  .communication = 7};
    plan.ranks.push_back(rank);
  }
  plan.decode_tokens_per_s = 12.5;
  return plan;
}

TEST(PlanJson, NamesWhatGpusHold) {
  plan::FormatPlan plan = Plan();
  for (plan::RankPlan& rank : plan.ranks) {
    rank.bytes.on_gpu = true;
    rank.bytes.graphs = 8;
    rank.bytes.scratch = 9;
    rank.bytes.collectives = 10;
    rank.bytes.pinned = 11;
  }
  const auto json = nlohmann::json::parse(PlanJson({&plan, 1}))[0]["ranks"][0];
  EXPECT_EQ(json["graphs"], 8);
  EXPECT_EQ(json["scratch"], 9);
  EXPECT_EQ(json["collectives"], 10);
  EXPECT_EQ(json["pinned"], 11);
  EXPECT_EQ(json["free"], kGib - 5 - 6 - 8 - 9 - 10);
  EXPECT_THAT(PlanChart({&plan, 1}, {}), ::testing::HasSubstr("graphs"));
}

TEST(PlanJson, HasExactlyTheNamedKeys) {
  const plan::FormatPlan plan = Plan();
  const auto json = nlohmann::json::parse(PlanJson({&plan, 1}));
  ASSERT_EQ(json.size(), 1u);
  EXPECT_EQ(json[0].size(), 5u);
  EXPECT_EQ(json[0]["format"], "int8");
  EXPECT_EQ(json[0]["tp"], 3);
  EXPECT_EQ(json[0]["fits"], false);
  EXPECT_EQ(json[0]["decode_tokens_per_s"], 12.5);
  ASSERT_EQ(json[0]["ranks"].size(), 3u);
  EXPECT_EQ(json[0]["ranks"][2].size(), 6u);
  EXPECT_EQ(json[0]["ranks"][2]["embedding"], 4);
  EXPECT_EQ(json[0]["ranks"][2]["weights"], 3 * kGib);
  EXPECT_EQ(json[0]["ranks"][2]["kv"], 5);
  EXPECT_EQ(json[0]["ranks"][2]["workspace"], 6);
  EXPECT_EQ(json[0]["ranks"][2]["communication"], 7);
  EXPECT_EQ(json[0]["ranks"][2]["free"], -static_cast<int64_t>(kGib) - 22);
}

TEST(PlanTable, OneLineForEqualRanks) {
  const plan::FormatPlan plan = Plan();
  loader::ModelConfig config;
  config.num_layers = 1;
  const std::string table =
      PlanTable(config, {.context = 100}, {&plan, 1}, {.choice = {}, .reason = "nothing fits"});
  EXPECT_THAT(table, ::testing::HasSubstr("int8     3 0-1         2.00     1.00"));
  EXPECT_THAT(table, ::testing::HasSubstr("int8     3 2           2.00     3.00"));
  EXPECT_THAT(table, ::testing::HasSubstr("Not possible: nothing fits."));
}

TEST(PlanChart, DrawsEveryRank) {
  const plan::FormatPlan plan = Plan();
  const std::string svg = PlanChart({&plan, 1}, {});
  size_t frames = 0;
  for (size_t at = svg.find("fill=\"none\""); at != std::string::npos;
       at = svg.find("fill=\"none\"", at + 1)) {
    ++frames;
  }
  EXPECT_EQ(frames, 3u);
  EXPECT_THAT(svg, ::testing::StartsWith("<svg "));
  EXPECT_THAT(svg, ::testing::EndsWith("</svg>\n"));
}

}  // namespace
}  // namespace tandem::launcher
