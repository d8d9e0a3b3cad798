#include "runtime/engine/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace tandem::engine {
namespace {

using ::testing::HasSubstr;

// A decode of a sequence with 18 tokens and a first chunk of 3.
StepPlan Example() {
  StepPlan plan;
  plan.sequence_number = 0x123456789abcdef0;
  plan.token_ids = {7, 1, 2, 3};
  plan.positions = {17, 0, 1, 2};
  plan.slot_mapping = {5 * 16 + 1, 64, 65, 66};
  plan.cu_seqlens_q = {0, 1, 4};
  plan.context_lens = {18, 3};
  plan.max_blocks = 2;
  plan.block_tables = {9, 5, 4, -1};
  plan.logits_indices = {0, 3};
  plan.sampling = {{.kind = kernels::SampleKind::kDraw, .inverse_temperature = 1.5, .uniform = 7},
                   {.kind = kernels::SampleKind::kWhole}};
  return plan;
}

std::vector<std::byte> Bytes(const StepPlan& plan) {
  std::vector<std::byte> bytes;
  plan.Serialize(bytes);
  return bytes;
}

void ExpectEqual(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.kind, b.kind);
  EXPECT_EQ(a.sequence_number, b.sequence_number);
  EXPECT_EQ(a.token_ids, b.token_ids);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.slot_mapping, b.slot_mapping);
  EXPECT_EQ(a.cu_seqlens_q, b.cu_seqlens_q);
  EXPECT_EQ(a.context_lens, b.context_lens);
  EXPECT_EQ(a.block_tables, b.block_tables);
  EXPECT_EQ(a.max_blocks, b.max_blocks);
  EXPECT_EQ(a.logits_indices, b.logits_indices);
  ASSERT_EQ(a.sampling.size(), b.sampling.size());
  for (size_t i = 0; i < a.sampling.size(); ++i) {
    EXPECT_EQ(a.sampling[i].kind, b.sampling[i].kind);
    EXPECT_EQ(a.sampling[i].inverse_temperature, b.sampling[i].inverse_temperature);
    EXPECT_EQ(a.sampling[i].least, b.sampling[i].least);
    EXPECT_EQ(a.sampling[i].uniform, b.sampling[i].uniform);
  }
}

TEST(StepPlanTest, RoundTrip) {
  const StepPlan plan = Example();
  StepPlan parsed;
  parsed.token_ids.assign(100, 5);  // what was there before goes
  ASSERT_TRUE(parsed.Parse(Bytes(plan)).ok());
  ExpectEqual(plan, parsed);
  EXPECT_EQ(parsed.Input().num_tokens(), 4);
  EXPECT_EQ(parsed.Input().num_sequences(), 2);
  EXPECT_EQ(parsed.Input().num_rows(), 2);
  EXPECT_EQ(Bytes(plan).size(), 64 + 4 * (4 + 4 + 4 + 3 + 2 + 4 + 2) + 2 * 32);
}

TEST(StepPlanTest, OtherKindsCarryNothing) {
  for (const auto kind : {StepPlan::Kind::kShutdown, StepPlan::Kind::kHeartbeat}) {
    StepPlan plan;
    plan.kind = kind;
    plan.sequence_number = 3;
    StepPlan parsed = Example();
    ASSERT_TRUE(parsed.Parse(Bytes(plan)).ok());
    ExpectEqual(plan, parsed);
    StepPlan with_arrays = Example();
    with_arrays.kind = kind;
    EXPECT_EQ(parsed.Parse(Bytes(with_arrays)).code(), absl::StatusCode::kInternal);
  }
}

TEST(StepPlanTest, ACallForRowsCarriesTheirNumbers) {
  StepPlan plan;
  plan.kind = StepPlan::Kind::kRows;
  plan.logits_indices = {1, 63};
  StepPlan parsed = Example();
  ASSERT_TRUE(parsed.Parse(Bytes(plan)).ok());
  ExpectEqual(plan, parsed);
  plan.logits_indices = {3, 3};
  EXPECT_EQ(parsed.Parse(Bytes(plan)).code(), absl::StatusCode::kInternal);
  plan = Example();
  plan.kind = StepPlan::Kind::kRows;
  EXPECT_EQ(parsed.Parse(Bytes(plan)).code(), absl::StatusCode::kInternal);
}

TEST(StepPlanTest, ClearKeepsCapacity) {
  StepPlan plan = Example();
  const int32_t* data = plan.token_ids.data();
  plan.Clear();
  EXPECT_TRUE(plan.token_ids.empty());
  EXPECT_EQ(plan.max_blocks, 0);
  plan.token_ids.push_back(1);
  EXPECT_EQ(plan.token_ids.data(), data);
}

TEST(StepPlanTest, EveryTruncationIsRefused) {
  const std::vector<std::byte> bytes = Bytes(Example());
  StepPlan plan;
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(plan.Parse(std::span(bytes).first(size)).code(), absl::StatusCode::kInternal);
  }
  std::vector<std::byte> longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(plan.Parse(longer).ok());
}

TEST(StepPlanTest, HostileLengthsAreRefusedBeforeAllocation) {
  // Lengths at byte 24, nine of 32 bits. All ones would be 120 GB; pairs that
  // overflow 32 bits must not add up to the true size either.
  for (size_t field = 0; field < 9; ++field) {
    for (const uint32_t length : {0xffffffffu, 0x80000000u, 0x40000004u, 0x7fffffffu}) {
      std::vector<std::byte> bytes = Bytes(Example());
      std::memcpy(bytes.data() + 24 + 4 * field, &length, 4);
      StepPlan plan;
      EXPECT_EQ(plan.Parse(bytes).code(), absl::StatusCode::kInternal);
      EXPECT_LT(plan.token_ids.capacity(), 1000u);
    }
  }
}

TEST(StepPlanTest, AnotherVersionNamesBoth) {
  std::vector<std::byte> bytes = Bytes(Example());
  bytes[4] = std::byte{9};
  StepPlan plan;
  const absl::Status status = plan.Parse(bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 9"));
}

TEST(StepPlanTest, ArraysThatDoNotFitAreRefused) {
  const auto refused = [](auto change) {
    StepPlan plan = Example();
    change(plan);
    StepPlan parsed;
    return parsed.Parse(Bytes(plan)).code() == absl::StatusCode::kInternal;
  };
  EXPECT_TRUE(refused([](StepPlan& p) { p.positions.pop_back(); }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.slot_mapping.push_back(0); }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.slot_mapping[0] = -1; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.positions[1] = -1; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.token_ids[1] = -5; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.cu_seqlens_q = {0, 4}; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.cu_seqlens_q[1] = 0; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.cu_seqlens_q[1] = 5; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.cu_seqlens_q[1] = INT32_MIN; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.cu_seqlens_q[2] = 5; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.cu_seqlens_q[0] = 1; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.context_lens[1] = 2; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.context_lens[0] = 33; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.context_lens[0] = INT32_MAX; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.max_blocks = 0; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.max_blocks = -2; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.max_blocks = 3; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.logits_indices = {0, 4}; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.logits_indices = {3, 0}; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.logits_indices = {-1}; }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.Clear(); }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.sampling.pop_back(); }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.sampling[0].kind = kernels::SampleKind(5); }));
  EXPECT_TRUE(refused([](StepPlan& p) { p.sampling[0].kind = kernels::SampleKind(-1); }));
  EXPECT_FALSE(refused([](StepPlan& p) { p.sampling.clear(); }));
  EXPECT_FALSE(refused([](StepPlan& p) {  // a prefill's chunk
    p.logits_indices.clear();
    p.sampling.clear();
  }));
}

TEST(StepPlanTest, DamagedBytesNeverCrash) {
  std::mt19937 random(7);
  const std::vector<std::byte> good = Bytes(Example());
  StepPlan plan;
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::byte> bytes = good;
    for (unsigned n = random() % 4 + 1; n > 0; --n) {
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    accepted += plan.Parse(bytes).ok();
  }
  EXPECT_GT(accepted, 0);  // a token id may be anything
}

}  // namespace
}  // namespace tandem::engine
