#include "runtime/plan/planner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "runtime/model/decoder.h"
#include "runtime/model/model_tensors.h"
#include "runtime/model/row_sampling.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/plan/recommend.h"

namespace tandem::plan {
namespace {

loader::ModelConfig Llama8B() {
  loader::ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.hidden_size = 4096;
  config.intermediate_size = 14336;
  config.num_layers = 32;
  config.num_heads = 32;
  config.num_kv_heads = 8;
  config.head_dim = 128;
  config.vocab_size = 128256;
  config.max_position_embeddings = 131072;
  return config;
}

double Gib(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }
uint64_t FromGib(double gib) { return static_cast<uint64_t>(gib * (1 << 30)); }

class PlannerTest : public ::testing::Test {
 protected:
  std::vector<FormatPlan> Plan(std::vector<double> gib, int64_t context = 8192, int64_t streams = 1,
                               double all_reduce = 20e-6) {
    request_ = {};
    for (const double memory : gib) {
      request_.devices.push_back({.memory = FromGib(memory), .bandwidth = 600e9});
    }
    request_.context = context;
    request_.streams = streams;
    request_.all_reduce_seconds = all_reduce;
    return PlanAll(config_, request_, *cpu_);
  }
  const FormatPlan& At(const std::vector<FormatPlan>& plans, Format format, int tp) {
    for (const FormatPlan& plan : plans) {
      if (plan.format == format && plan.tp == tp) return plan;
    }
    ADD_FAILURE();
    return plans[0];
  }

  loader::ModelConfig config_ = Llama8B();
  PlanRequest request_;
  std::unique_ptr<kernels::Backend> cpu_ = *kernels::MakeCpuBackend("auto", {.threads = 1});
  std::unique_ptr<kernels::DeviceLayout> gpu_ = kernels::MakeCudaLayout();
};

TEST_F(PlannerTest, GpusHoldGraphsScratchAndCollectives) {
  const auto on_cpus = Plan({80, 80});
  const auto plans = PlanAll(config_, request_, *gpu_);
  for (const int tp : {1, 2}) {
    const RankPlan& rank = At(plans, Format::kBf16, tp).ranks[0];
    const MemoryPlan& bytes = rank.bytes;
    EXPECT_TRUE(bytes.on_gpu);
    EXPECT_EQ(bytes.graphs, model::RecordingBudget().bytes);
    // Three buffers of 64 MiB, 32 MiB of the library, 512 MiB of the driver.
    EXPECT_EQ(bytes.scratch, uint64_t{736} << 20);
    EXPECT_EQ(bytes.collectives,
              tp == 1 ? 0 : (2 * (uint64_t{2} << 20)) + (2 * (uint64_t{4} << 20)) + (256 << 20));
    EXPECT_EQ(bytes.gpu(), bytes.weights + bytes.kv + bytes.workspace + bytes.graphs +
                               bytes.scratch + bytes.collectives);
    // Two pinned buffers of 8 MiB, 64 rows of logits, partial sums on their way.
    const uint64_t logits = uint64_t{64} * 128256 / tp * sizeof(float);
    EXPECT_EQ(bytes.pinned, (16 << 20) + logits + (tp == 1 ? 0 : 2 * 512 * 4096 * sizeof(float)));
    EXPECT_EQ(bytes.host(), bytes.communication + bytes.process + bytes.pinned);
    EXPECT_EQ(rank.free(), static_cast<int64_t>(rank.device - bytes.gpu()));
    // The step's arrays, block tables of 64 sequences of 512 blocks, and what chooses tokens.
    const auto shards = parallel::ShardPlan::Make(model::ShapeOf(config_), tp);
    const uint64_t tables = (3 * 512 + 64 + 64 * 512) * sizeof(int32_t);
    EXPECT_EQ(bytes.workspace, At(on_cpus, Format::kBf16, tp).ranks[0].bytes.workspace + tables +
                                   model::RowSampling::Bytes(shards, 64));
  }
}

TEST_F(PlannerTest, GpusHoldTwoStreamedLayers) {
  Plan({8, 8});
  const auto resident = PlanAll(config_, request_, *gpu_);
  request_.stream = true;
  request_.stream_bandwidth = 20e9;
  const auto streamed = PlanAll(config_, request_, *gpu_);
  for (const Format format : {Format::kBf16, Format::kInt4, Format::kFp8}) {
    for (const int tp : {1, 2}) {
      const FormatPlan& plan = At(streamed, format, tp);
      const MemoryPlan& bytes = plan.ranks[0].bytes;
      const MemoryPlan& whole = At(resident, format, tp).ranks[0].bytes;
      EXPECT_EQ(bytes.present, 2 * bytes.streamed / config_.num_layers);
      // Head and norms stay on the GPU.
      EXPECT_EQ(bytes.read(), whole.weights);
      EXPECT_LT(bytes.weights, whole.weights / 4);
      EXPECT_EQ(bytes.pinned, whole.pinned + bytes.streamed);
      EXPECT_EQ(bytes.gpu(), whole.gpu() - whole.weights + bytes.weights - whole.graphs);
      EXPECT_TRUE(plan.fits);
      const double seconds = static_cast<double>(bytes.streamed) / request_.stream_bandwidth;
      EXPECT_NEAR(plan.decode_tokens_per_s * seconds, 1, 0.1);
    }
  }
  EXPECT_FALSE(At(resident, Format::kBf16, 1).fits);
}

TEST(RanksOnGpu, CountsThoseOfTheSameHostAndGpu) {
  const std::string gpus[] = {"a 1", "a 2", "b 1", "a 1"};
  EXPECT_EQ(RanksOnGpu(gpus, 0), 2);
  EXPECT_EQ(RanksOnGpu(gpus, 2), 1);
  const std::string none[] = {"", ""};
  EXPECT_EQ(RanksOnGpu(none, 1), 1);
}

TEST(StorageBytes, OfTheEightBillionShape) {
  const loader::ModelConfig config = Llama8B();
  // 8,030,261,248 parameters, of which 266,240 in norms.
  EXPECT_EQ(StorageBytes(config, Format::kFp32), uint64_t{8030261248} * 4);
  EXPECT_EQ(StorageBytes(config, Format::kBf16), uint64_t{8030261248} * 2);
  EXPECT_NEAR(Gib(StorageBytes(config, Format::kFp32)), 29.9, 0.05);
  EXPECT_NEAR(Gib(StorageBytes(config, Format::kBf16)), 14.95, 0.01);
  // A byte each and two for 32 of them: 8.5 bits. Embedding and head, 2 x 525,336,576
  // parameters, stay at that in INT4; the rest takes 4.5 bits.
  const uint64_t norms = 266240, tables = uint64_t{2} * 525336576;
  const uint64_t rest = uint64_t{8030261248} - norms - tables;
  EXPECT_EQ(StorageBytes(config, Format::kInt8), (rest + tables) / 32 * 34 + 2 * norms);
  EXPECT_EQ(StorageBytes(config, Format::kInt4), rest / 32 * 18 + tables / 32 * 34 + 2 * norms);
  EXPECT_EQ(StorageBytes(config, Format::kFp8),
            rest + rest / (128 * 128) * 4 + 2 * tables + 2 * norms);
}

TEST_F(PlannerTest, WeightsAreThoseOfStorageWithoutTheEmbedding) {
  const auto plans = Plan({80});
  const uint64_t embedding = 525336576;
  // Norms are held in FP32.
  const uint64_t norms = 266240;
  EXPECT_EQ(At(plans, Format::kFp32, 1).ranks[0].bytes.weights,
            StorageBytes(config_, Format::kFp32) - 4 * embedding);
  EXPECT_EQ(At(plans, Format::kBf16, 1).ranks[0].bytes.weights,
            StorageBytes(config_, Format::kBf16) - 2 * embedding + 2 * norms);
  // Held is a scale for 128 columns of each row, stored one for 128 rows of them.
  const uint64_t elements = uint64_t{8030261248} - norms - 2 * embedding;
  EXPECT_EQ(At(PlanAll(config_, request_, *gpu_), Format::kFp8, 1).ranks[0].bytes.weights,
            elements + elements / 128 * 4 + 2 * embedding + 4 * norms);
  // CPUs do not multiply it.
  EXPECT_EQ(At(plans, Format::kFp8, 1).ranks[0].bytes.weights,
            At(plans, Format::kBf16, 1).ranks[0].bytes.weights);
  for (const Format format : {Format::kInt8, Format::kInt4}) {
    // A layout may round up; scales may be wider than stored ones.
    const auto held = static_cast<double>(At(plans, format, 1).ranks[0].bytes.weights);
    const auto stored = static_cast<double>(StorageBytes(config_, format)) - embedding * 34.0 / 32;
    EXPECT_GE(held, stored);
    EXPECT_LE(held, 1.15 * stored);
  }
}

TEST_F(PlannerTest, RanksShareTheWeightsAndTheKvCache) {
  const auto plans = Plan({24, 24, 24, 24}, 8192, 4);
  const uint64_t kv_token = 2 * 32 * 8 * 128 * 2;
  EXPECT_EQ(At(plans, Format::kBf16, 1).ranks[0].bytes.kv, kv_token * 8192 * 4);
  for (int tp : {2, 4}) {
    const FormatPlan& plan = At(plans, Format::kBf16, tp);
    uint64_t kv = 0;
    for (const RankPlan& rank : plan.ranks) kv += rank.bytes.kv;
    EXPECT_EQ(kv, kv_token * 8192 * 4);
    EXPECT_LT(plan.ranks[0].bytes.weights,
              1.001 * At(plans, Format::kBf16, 1).ranks[0].bytes.weights / tp);
  }
}

TEST_F(PlannerTest, FitsExactlyWhenNothingLacks) {
  const uint64_t need = At(Plan({80}), Format::kBf16, 1).ranks[0].bytes.total();
  request_.devices = {{.memory = need, .bandwidth = 600e9}};
  auto plans = PlanAll(config_, request_, *cpu_);
  EXPECT_TRUE(At(plans, Format::kBf16, 1).fits);
  EXPECT_EQ(At(plans, Format::kBf16, 1).ranks[0].free(), 0);
  EXPECT_EQ(At(plans, Format::kBf16, 1).kv_tokens, 8192);
  request_.devices[0].memory = need - 1;
  plans = PlanAll(config_, request_, *cpu_);
  EXPECT_FALSE(At(plans, Format::kBf16, 1).fits);
  EXPECT_EQ(At(plans, Format::kBf16, 1).ranks[0].free(), -1);
  EXPECT_EQ(At(plans, Format::kBf16, 1).kv_tokens, 8192 - 16);
}

TEST_F(PlannerTest, MixedGpusTakeSharesByTheirMemory) {
  const auto plans = Plan({16, 24, 24});
  const FormatPlan& plan = At(plans, Format::kBf16, 3);
  EXPECT_EQ(plan.ranks[0].device, FromGib(24));
  EXPECT_EQ(plan.ranks[2].device, FromGib(16));
  const auto weights = [&](int r) { return static_cast<double>(plan.ranks[r].bytes.weights); };
  EXPECT_NEAR(weights(2) / weights(0), 16.0 / 24, 0.01);
  EXPECT_EQ(plan.ranks[0].bytes.weights, plan.ranks[1].bytes.weights);
  EXPECT_NEAR(static_cast<double>(plan.ranks[2].bytes.kv) / plan.ranks[0].bytes.kv, 2.0 / 3, 1e-9);
  // Two degrees take the two large ones, evenly.
  const FormatPlan& two = At(plans, Format::kBf16, 2);
  EXPECT_EQ(two.ranks[0].bytes.weights, two.ranks[1].bytes.weights);
}

TEST_F(PlannerTest, GpusThatHardlyDifferTakeEqualShares) {
  const auto plans = Plan({24, 23});
  const FormatPlan& plan = At(plans, Format::kBf16, 2);
  EXPECT_EQ(plan.ranks[0].bytes.weights, plan.ranks[1].bytes.weights);
}

TEST(ShardWeightsByMemory, AreAlikeUpToATenthApart) {
  const auto shares = [](std::vector<double> gib) {
    std::vector<uint64_t> memory;
    for (const double size : gib) memory.push_back(FromGib(size));
    return ShardWeightsByMemory(memory);
  };
  EXPECT_THAT(shares({24, 23, 22}), ::testing::ElementsAre(1, 1, 1));
  EXPECT_THAT(shares({24, 24, 16}), ::testing::ElementsAre(24576, 24576, 16384));
  EXPECT_THAT(shares({0, 1}), ::testing::ElementsAre(1, 1024));
}

TEST_F(PlannerTest, LogitsAreThoseOfAStep) {
  const uint64_t many = At(Plan({80}, 16, 512), Format::kBf16, 1).ranks[0].bytes.workspace;
  const uint64_t more = At(Plan({80}, 16, 100000), Format::kBf16, 1).ranks[0].bytes.workspace;
  EXPECT_EQ(many, more);  // 512 tokens
  EXPECT_GT(many, At(Plan({80}), Format::kBf16, 1).ranks[0].bytes.workspace);
}

TEST_F(PlannerTest, SpeedIsWhatBandwidthAllows) {
  const auto plans = Plan({80, 80});
  const FormatPlan& one = At(plans, Format::kBf16, 1);
  const double read = static_cast<double>(one.ranks[0].bytes.weights + one.ranks[0].bytes.kv);
  EXPECT_NEAR(one.decode_tokens_per_s, 1 / (read / 600e9 + 0.15e-3), 1e-6);
  const FormatPlan& two = At(plans, Format::kBf16, 2);
  EXPECT_NEAR(two.decode_tokens_per_s, 1 / (read / 2 / 600e9 + 64 * 20e-6 + 0.15e-3), 0.05);
}

TEST_F(PlannerTest, RecommendsTheMostPreciseFormatThatFits) {
  auto plans = Plan({24, 24});
  Recommendation best = Recommend(plans, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(plans[*best.choice].format, Format::kBf16);
  EXPECT_EQ(plans[*best.choice].tp, 2);
  EXPECT_THAT(best.reason, ::testing::HasSubstr("times as fast as TP = 1"));

  plans = Plan({10, 10});
  best = Recommend(plans, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(plans[*best.choice].format, Format::kBf16);
  EXPECT_EQ(plans[*best.choice].tp, 2);
  EXPECT_THAT(best.reason, ::testing::HasSubstr("fewer ranks do not hold it"));

  plans = Plan({8});
  best = Recommend(plans, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(plans[*best.choice].format, Format::kInt4);
  EXPECT_THAT(best.reason, ::testing::HasSubstr("bf16, int8 at no degree"));

  plans = Plan({2, 2});
  best = Recommend(plans, request_);
  EXPECT_FALSE(best.choice.has_value());
  EXPECT_THAT(best.reason, ::testing::HasSubstr("nothing fits"));
}

TEST_F(PlannerTest, RecommendsAFormatThatIsAskedForAlone) {
  for (const double gib : {80.0, 1.0}) {
    Plan({gib});
    for (const bool gpus : {false, true}) {
      for (const Format format : kFormats) {
        request_.only = format;
        const auto plans = PlanAll(config_, request_, gpus ? *gpu_ : *cpu_);
        ASSERT_EQ(plans.size(), 1u);
        const Recommendation best = Recommend(plans, request_);
        EXPECT_EQ(best.choice.has_value(), gib == 80);
        EXPECT_THAT(best.reason, ::testing::HasSubstr(FormatName(format)));
      }
    }
  }
  EXPECT_FALSE(Recommend({}, request_).choice.has_value());
}

TEST_F(PlannerTest, RecommendsFp8WhereItIsStored) {
  Plan({12});
  request_.stored = Format::kFp8;
  const auto on_gpu = PlanAll(config_, request_, *gpu_);
  Recommendation best = Recommend(on_gpu, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(on_gpu[*best.choice].format, Format::kFp8);
  EXPECT_THAT(best.reason, ::testing::HasSubstr("the format that is stored fits"));
  // CPUs hold it in 16 bits, for which there is no room.
  const auto on_cpu = PlanAll(config_, request_, *cpu_);
  best = Recommend(on_cpu, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(on_cpu[*best.choice].format, Format::kInt8);
  EXPECT_THAT(best.reason, ::testing::HasSubstr("fp8 at no degree"));
  // Of others INT8 loses less.
  request_.stored = Format::kBf16;
  best = Recommend(on_gpu, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(on_gpu[*best.choice].format, Format::kInt8);
}

TEST_F(PlannerTest, RefusesRanksThatDoNotMakeItFaster) {
  // 25 ms a token at one rank; 64 exchanges of 300 us eat what a second rank saves.
  const auto plans = Plan({24, 24}, 2048, 1, 300e-6);
  const Recommendation best = Recommend(plans, request_);
  ASSERT_TRUE(best.choice.has_value());
  EXPECT_EQ(plans[*best.choice].tp, 1);
  EXPECT_THAT(best.reason, ::testing::HasSubstr("TP = 2 is refused"));
}

}  // namespace
}  // namespace tandem::plan
