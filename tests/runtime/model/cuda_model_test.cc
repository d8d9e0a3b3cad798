// Whole worlds whose ranks compute on (emulated) GPUs: golden logits in all formats, and
// with --deterministic the same bits at every degree, in any company, recorded or not.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_communicator.h"
#include "tests/support/golden_logits.h"
#include "tests/support/warm_products.h"

namespace tandem {
namespace {

using testing::Rank;
using testing::RunWorld;
using testing::Sequence;
using testing::Step;
using testing::WorldOptions;

// way: of device_communicator.h.
WorldOptions OnGpus(int tp, bool deterministic, const std::string& way) {
  WorldOptions options = {.tp = tp, .num_blocks = 64, .max_tokens = 128};
  options.make_backend = [deterministic] {
    return kernels::MakeCudaBackend({.deterministic = deterministic, .scratch_bytes = 256 << 10});
  };
  options.make_communicator = [deterministic, way](kernels::Backend& backend,
                                                   parallel::Communicator& host) {
    testing::WarmProducts(backend);
    return parallel::MakeDeviceCommunicator(host,
                                            {.stream = kernels::CudaBackend::Of(backend).stream(),
                                             .max_floats = 128 << 10,
                                             .max_gathered = 128 << 10,
                                             .step_timeout = std::chrono::minutes(1),
                                             .deterministic = deterministic,
                                             .way = way});
  };
  return options;
}

// The same bits whichever way.
WorldOptions OnGpus(int tp, bool deterministic) {
  return OnGpus(tp, deterministic, deterministic && tp == 3 ? "peer" : tp == 4 ? "nccl" : "staged");
}

testing::LogitBounds BoundsOnGpus(const loader::ModelConfig& config, int64_t length,
                                  const testing::LogitScale& scale) {
  using kernels::DType;
  // Products of more than a few tokens round activations and, of many tokens, quantized
  // weights by 2^-8 at most each.
  const bool exact = config.dtype == DType::kF32 && !config.quantization;
  const double many = exact || length <= (config.quantization ? 4 : 8) ? 0 : 0x1p-7;
  // Sums of INT4 codes with their offset have terms a few times as large.
  const double codes = config.quantization ? 8 : 1;
  const double off =
      (codes * testing::PathRoundings(config, length) + testing::PathProducts(config) * many) *
      scale.largest;
  // Two logits may swap where they differ by less than both errors.
  return {.off = off, .behind = 2 * off};
}

// Parts of one matrix that are stored unlike each other are held in BF16, off by 2^-8 at most.
testing::LogitBounds BoundsOfMixed(const loader::ModelConfig& config, int64_t length,
                                   const testing::LogitScale& scale) {
  const double off = BoundsOnGpus(config, length, scale).off +
                     testing::PathProducts(config) * 0x1p-8 * scale.largest;
  return {.off = off, .behind = 2 * off};
}

// Attention on matrix units: keys, values, queries and weights are each rounded once a layer, by
// 2^-kBits of themselves at most.
template <int kBits>
testing::LogitBounds BoundsOf16BitCache(const loader::ModelConfig& config, int64_t length,
                                        const testing::LogitScale& scale) {
  const double rounding = 1.0 / (1 << kBits);
  const double off = BoundsOnGpus(config, length, scale).off +
                     static_cast<double>(4 * config.num_layers) * rounding * scale.largest;
  return {.off = off, .behind = 2 * off};
}

TEST(CudaGoldenLogits16BitCache, MatchTransformers) {
  for (const std::string& name : testing::GoldenCases("logits")) {
    SCOPED_TRACE(name);
    WorldOptions options = OnGpus(1, false);
    options.kv_dtype = kernels::KvDType::kF16;
    testing::CheckGoldenLogits(SourcePath("tests/golden/logits/" + name), options,
                               &BoundsOf16BitCache<11>);
    options.kv_dtype = kernels::KvDType::kBF16;
    testing::CheckGoldenLogits(SourcePath("tests/golden/logits/" + name), options,
                               &BoundsOf16BitCache<8>);
  }
}

class CudaGoldenLogits : public ::testing::TestWithParam<std::string> {};

TEST_P(CudaGoldenLogits, MatchTransformers) {
  for (int tp : {1, 2, 3}) {
    testing::CheckGoldenLogits(SourcePath("tests/golden/" + GetParam()), OnGpus(tp, false),
                               GetParam() == "quantized/ct_mixed" ? &BoundsOfMixed : &BoundsOnGpus);
  }
}

std::vector<std::string> AllCases() {
  std::vector<std::string> names;
  for (const char* kind : {"logits", "quantized"}) {
    for (const std::string& name : testing::GoldenCases(kind)) {
      names.push_back(std::string(kind) + "/" + name);
    }
  }
  return names;
}

INSTANTIATE_TEST_SUITE_P(Models, CudaGoldenLogits, ::testing::ValuesIn(AllCases()),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '/', '_');
                           return name;
                         });

// Checkpoints in FP8 stay so, and what is held is what is planned; with --dtype fp8 others
// become it.
TEST(CudaFloat8, IsHeldAsPlanned) {
  const kernels::DType bf16 = kernels::DType::kBF16;
  for (const auto& [name, dtype] : {std::pair("quantized/fp8_block", "auto"),
                                    {"quantized/fp8_tensor", "auto"},
                                    {"quantized/ct_fp8_block", "auto"},
                                    {"logits/llama_sharded", "fp8"}}) {
    SCOPED_TRACE(name);
    const std::string path = SourcePath(std::string("tests/golden/") + name);
    for (const int tp : {1, 3}) {
      WorldOptions options = OnGpus(tp, false);
      options.weights = *model::WeightRequests::Parse(dtype, 0, "auto");
      const absl::Status status = RunWorld(path, options, [&](Rank& rank) {
        const auto folder = *loader::ModelFolder::Open(path);
        const auto config = *loader::ReadConfig(folder);
        const auto checkpoint = *loader::Checkpoint::Open(folder);
        const auto backend = *options.make_backend();
        const auto held = model::HeldFormat(
            config, *checkpoint, model::LayerMatrix(config, 0, model::MatrixRole::kGateUp),
            options.weights, *backend);
        EXPECT_TRUE(FormatName(held).starts_with("FP8")) << FormatName(held);
        const auto plan = parallel::ShardPlan::Make(model::ShapeOf(config), tp);
        const auto weights = [&](const model::WeightRequests& requests) {
          const auto bytes = model::Decoder::Plan(config, *checkpoint, plan, rank.index, *backend,
                                                  {.max_rows = 8, .weights = requests});
          // A plan made without a GPU is the same.
          const auto without = model::Decoder::Plan(config, *checkpoint, plan, rank.index,
                                                    *kernels::MakeCudaLayout(),
                                                    {.max_rows = 8, .weights = requests});
          EXPECT_EQ(without.weights, bytes.weights);
          EXPECT_EQ(without.workspace, bytes.workspace);
          return bytes.weights;
        };
        EXPECT_EQ(rank.decoder.bytes().weights, weights(options.weights));
        model::WeightRequests wide = options.weights;
        wide.body = {.dtype = bf16};
        EXPECT_LT(rank.decoder.bytes().weights, weights(wide));
      });
      EXPECT_TRUE(status.ok()) << status;
    }
  }
}

constexpr int32_t kLength = 40;

Sequence MakeSequence(uint32_t seed, int32_t vocab, int32_t first_block) {
  std::mt19937 random(seed);
  Sequence sequence;
  for (int32_t i = 0; i < kLength; ++i) {
    sequence.ids.push_back(static_cast<int32_t>(random() % vocab));
  }
  for (int32_t b = 0; b < 3; ++b) sequence.blocks.push_back(first_block + (b * 2 + 1) % 3);
  return sequence;
}

// Last logits of one sequence, its tokens taken as `takes` says, over and over, beside
// `others` sequences that decode.
std::vector<float> LastLogits(Rank& rank, const std::vector<int32_t>& takes, int others) {
  const int32_t vocab = rank.decoder.config().vocab_size;
  Sequence mine = MakeSequence(1, vocab, 0);
  std::vector<Sequence> company;
  for (int i = 0; i < others; ++i) company.push_back(MakeSequence(2 + i, vocab, 3 + 3 * i));
  std::vector<float> logits;
  for (size_t i = 0; mine.computed < kLength; ++i) {
    Step step;
    for (Sequence& other : company) {
      if (other.computed < kLength) step.Add(other, 1);
    }
    step.Add(mine, std::min(takes[i % takes.size()], kLength - mine.computed));
    const auto all = rank.Forward(step);
    logits.assign(all.end() - vocab, all.end());
  }
  return logits;
}

std::vector<float> RunAlone(const std::string& folder, const WorldOptions& options,
                            const std::vector<int32_t>& takes, int others) {
  std::vector<float> logits;
  const absl::Status status = RunWorld(folder, options, [&](Rank& rank) {
    const auto last = LastLogits(rank, takes, others);
    if (rank.index == 0) logits = last;
  });
  EXPECT_TRUE(status.ok()) << status;
  return logits;
}

TEST(CudaDeterministic, SameBitsAtEveryDegreeAndInAnyCompany) {
  for (const char* model :
       {"logits/llama_ffn_172", "logits/qwen3_untied", "quantized/gptq_int4_act_order",
        "quantized/ct_int8_zeros", "quantized/fp8_block"}) {
    SCOPED_TRACE(model);
    const std::string folder = SourcePath(std::string("tests/golden/") + model);
    const auto whole = RunAlone(folder, OnGpus(1, true), {kLength}, 0);
    for (const int tp : {2, 3, 4}) {
      EXPECT_EQ(RunAlone(folder, OnGpus(tp, true), {kLength}, 0), whole) << "TP " << tp;
    }
    EXPECT_EQ(RunAlone(folder, OnGpus(1, true), {1}, 0), whole);
    EXPECT_EQ(RunAlone(folder, OnGpus(2, true), {7, 1, 20}, 5), whole);
  }
}

// Codes of a group are the same on every rank that has a part of it; and they lose little.
TEST(CudaDeterministic, Float8AtLoad) {
  const std::string folder = SourcePath("tests/golden/logits/llama_fp32");
  const auto exact = RunAlone(folder, OnGpus(1, true), {kLength}, 0);
  WorldOptions options = OnGpus(1, true);
  options.weights = *model::WeightRequests::Parse("fp8", 0, "fp8");
  const auto whole = RunAlone(folder, options, {kLength}, 0);
  for (const int tp : {2, 3}) {
    WorldOptions more = OnGpus(tp, true);
    more.weights = options.weights;
    EXPECT_EQ(RunAlone(folder, more, {kLength}, 0), whole) << "TP " << tp;
  }
  double difference = 0, size = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    difference += std::pow(whole[i] - exact[i], 2);
    size += std::pow(exact[i], 2);
  }
  // Three bits of mantissa leave 2.6 % of a value (root mean square) in each of some 10 products,
  // whose errors add up at worst.
  const double error = std::sqrt(difference / size);
  EXPECT_GT(error, 0.005);
  EXPECT_LT(error, 10 * 0.026);
}

// Decoding, so that products are of few tokens in both modes.
void CheckRecorded(WorldOptions options) {
  const std::string folder = SourcePath("tests/golden/logits/qwen3_untied");
  const auto issued = RunAlone(folder, options, {1}, 2);
  options.recorded_sequences = 4;
  // What graphs take is a change of the GPU's free memory, where others may be at work.
  options.recording = [](int) {
    return model::RecordingBudget{.time = absl::InfiniteDuration(), .bytes = UINT64_MAX};
  };
  std::vector<float> recorded;
  const absl::Status status = RunWorld(folder, options, [&](Rank& rank) {
    EXPECT_EQ(rank.decoder.recorded_steps(), 3);   // of 1, 2 and 4 sequences
    const auto logits = LastLogits(rank, {1}, 2);  // 3 sequences, one of padding
    if (rank.index == 0) recorded = logits;
    EXPECT_EQ(rank.decoder.replayed_steps(), kLength);
  });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(recorded, issued);
}

TEST(CudaRecorded, RecordedStepsGiveTheSameBits) {
  for (const bool deterministic : {false, true}) CheckRecorded(OnGpus(1, deterministic));
}

TEST(CudaRecorded, WorldsRecordTheirAllReduces) {
  for (const char* way : {"staged", "peer", "nccl"}) {
    for (const int tp : {2, 3}) {
      SCOPED_TRACE(::testing::Message() << way << ", TP " << tp);
      CheckRecorded(OnGpus(tp, tp == 3, way));
    }
  }
}

// Ranks that replay would not meet those that issue: the budget of one is that of all.
TEST(CudaRecorded, RanksStopRecordingTogether) {
  const std::string folder = SourcePath("tests/golden/logits/qwen3_untied");
  for (const bool time : {true, false}) {
    WorldOptions options = OnGpus(2, false, "peer");
    options.recorded_sequences = 4;
    options.recording = [&](int rank) {
      model::RecordingBudget budget;
      if (rank == 1 && time) budget.time = absl::ZeroDuration();
      if (rank == 1 && !time) budget.bytes = 0;
      return budget;
    };
    int64_t recorded[2] = {}, replayed[2] = {};
    const absl::Status status = RunWorld(folder, options, [&](Rank& rank) {
      recorded[rank.index] = rank.decoder.recorded_steps();
      LastLogits(rank, {1}, 0);
      LastLogits(rank, {1}, 1);
      replayed[rank.index] = rank.decoder.replayed_steps();
    });
    EXPECT_TRUE(status.ok()) << status;
    // A GPU may have had room for more already.
    EXPECT_GE(recorded[0], 1);
    if (time) EXPECT_EQ(recorded[0], 1);
    EXPECT_EQ(recorded[1], recorded[0]);
    EXPECT_EQ(replayed[0], recorded[0] == 1 ? kLength : 2 * kLength);
    EXPECT_EQ(replayed[1], replayed[0]);
  }
}

}  // namespace
}  // namespace tandem
