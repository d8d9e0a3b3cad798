// Quantized checkpoints and quantizing while loading, as whole models: logits
// against those of the dequantized weights, the same bits at every degree, and
// bytes as planned.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/runtime/loader/temp_dir.h"
#include "tests/support/model_world.h"

namespace tandem {
namespace {

using testing::Rank;
using testing::RunWorld;
using testing::Sequence;
using testing::Step;

std::vector<std::string> Cases() {
  std::vector<std::string> names;
  const std::string path = SourcePath("tests/golden/quantized");
  for (const auto& entry : std::filesystem::directory_iterator(path)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct Outcome {
  std::vector<float> logits;
  std::vector<uint64_t> read, held, planned;  // by rank, of weights
};

// Prefills `prompt` in two chunks, so that decoding's shapes occur too.
Outcome RunModel(const std::string& path, const testing::WorldOptions& options,
                 const std::vector<int32_t>& prompt) {
  Outcome outcome;
  outcome.read.resize(options.tp);
  outcome.held.resize(options.tp);
  outcome.planned.resize(options.tp);
  const absl::Status status = RunWorld(path, options, [&](Rank& rank) {
    outcome.read[rank.index] = rank.decoder.bytes_read();
    outcome.held[rank.index] = rank.decoder.bytes().weights;
    Sequence sequence = {.ids = prompt};
    for (int32_t b = 0; b < 32; ++b) sequence.blocks.push_back(b);
    std::vector<float> logits;
    const int32_t length = static_cast<int32_t>(prompt.size());
    for (const int32_t take : {length - 1, 1}) {
      Step step;
      step.Add(sequence, take);
      logits = rank.Forward(step);
    }
    if (rank.index == 0) outcome.logits = std::move(logits);
  });
  EXPECT_TRUE(status.ok()) << status;
  const auto folder = *loader::ModelFolder::Open(path);
  const auto config = *loader::ReadConfig(folder);
  const auto checkpoint = *loader::Checkpoint::Open(folder);
  const auto plan = parallel::ShardPlan::Make(model::ShapeOf(config), options.tp);
  const auto backend = *kernels::MakeCpuBackend(options.isa, {.threads = 1});
  for (int r = 0; r < options.tp; ++r) {
    outcome.planned[r] =
        model::Decoder::Plan(config, *checkpoint, plan, r, *backend, {.weights = options.weights})
            .weights;
  }
  return outcome;
}

// Same bits, bytes as planned and about its own share read at every degree.
void ExpectAlikeAtEveryDegree(const std::string& path, testing::WorldOptions options,
                              const std::vector<int32_t>& prompt, const Outcome& alone) {
  EXPECT_EQ(alone.held, alone.planned);
  for (const int tp : {2, 3, 5}) {
    options.tp = tp;
    const Outcome outcome = RunModel(path, options, prompt);
    EXPECT_EQ(outcome.logits, alone.logits) << "TP " << tp;
    EXPECT_EQ(outcome.held, outcome.planned) << "TP " << tp;
    // Heads, leaves and groups are coarse in so small a model.
    for (const uint64_t read : outcome.read) {
      EXPECT_LT(read, alone.read[0] * 0.75) << "TP " << tp;
    }
  }
}

class QuantizedModel : public ::testing::TestWithParam<std::string> {};

TEST_P(QuantizedModel, MatchesItsDequantizedWeights) {
  const std::string path = SourcePath("tests/golden/quantized/" + GetParam());
  const auto golden = nlohmann::json::parse(std::ifstream(path + "/golden.json"));
  const testing::WorldOptions options;
  for (const auto& prompt : golden["prompts"]) {
    const auto ids = prompt["prompt"].get<std::vector<int32_t>>();
    const auto expected = prompt["logits"].get<std::vector<double>>();
    const Outcome alone = RunModel(path, options, ids);
    ASSERT_EQ(alone.logits.size(), expected.size());
    // Weights are exact, activations are not: 8 bits a group leave an error of
    // m / 127 / sqrt(12) of each element's standard deviation, m being a group's
    // largest in such deviations, under 4 in groups of 32; a product averages it
    // over its inputs, so relative to its result it stays e = 4 / 127 / sqrt(12) =
    // 0.9 %. The 5 products on the way to the logits add e^2 each. Of so many
    // logits none is off by more than 5 deviations.
    double square = 0;
    for (const double v : expected) square += v * v;
    const double deviation = std::sqrt(square / expected.size());
    const double tolerance = 5 * std::sqrt(5.0) * (4 / 127.0 / std::sqrt(12.0)) * deviation;
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(alone.logits[i] - expected[i]));
    }
    EXPECT_LE(worst, tolerance);
    if (ids.size() > 10) continue;
    ExpectAlikeAtEveryDegree(path, options, ids, alone);
    EXPECT_EQ(RunModel(path, {.isa = "ref"}, ids).logits, alone.logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, QuantizedModel, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param; });

TEST(QuantizeAtLoad, SameBitsAtEveryDegree) {
  const std::vector<int32_t> prompt = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26};
  for (const char* model : {"logits/llama_ffn_172", "logits/qwen3_tied", "logits/llama_biases",
                            "quantized/gptq_int4_act_order", "quantized/fp8_block",
                            "quantized/ct_int4_group", "quantized/ct_mixed"}) {
    const std::string path = SourcePath(std::string("tests/golden/") + model);
    for (const auto& [dtype, group] : {std::pair("int8", 0), std::pair("int8", 128),
                                       std::pair("int4", 64), std::pair("fp32", 0)}) {
      SCOPED_TRACE(std::string(model) + " " + dtype + " " + std::to_string(group));
      const auto weights = model::WeightRequests::Parse(dtype, group, "auto");
      ASSERT_TRUE(weights.ok());
      const testing::WorldOptions options = {.weights = *weights};
      const Outcome alone = RunModel(path, options, prompt);
      ExpectAlikeAtEveryDegree(path, options, prompt, alone);
    }
  }
}

// Quantizing to 8 bits changes little, to 4 more: the conversion is the right one.
TEST(QuantizeAtLoad, LosesLittle) {
  const std::string path = SourcePath("tests/golden/logits/llama_fp32");
  const std::vector<int32_t> prompt = {3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26};
  const std::vector<float> exact = RunModel(path, {}, prompt).logits;
  const auto error = [&](const char* dtype) {
    const auto weights = *model::WeightRequests::Parse(dtype, 0, "auto");
    const auto logits = RunModel(path, {.weights = weights}, prompt).logits;
    double difference = 0, size = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      difference += std::pow(logits[i] - exact[i], 2);
      size += std::pow(exact[i], 2);
    }
    return std::sqrt(difference / size);
  };
  EXPECT_EQ(error("auto"), 0);
  // Half a unit of the last of 8 bits in each of some 10 products.
  EXPECT_LT(error("bf16"), 10 * std::pow(2.0, -9));
  EXPECT_LT(error("int8"), 0.05);
  EXPECT_GT(error("int4"), error("int8"));
  EXPECT_LT(error("int4"), 0.5);
}

// A scale that is no number in the last row of the embedding, which the last rank checks.
TEST(QuantizedEmbedding, IsCheckedBeforeItServes) {
  const std::string source = SourcePath("tests/golden/quantized/ct_embedding_int8");
  const loader::TempDir dir;
  std::filesystem::copy(source, dir.path(), std::filesystem::copy_options::recursive);
  const std::string path = dir / "model.safetensors";
  std::stringstream read;
  read << std::ifstream(path, std::ios::binary).rdbuf();
  std::string bytes = read.str();
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  const auto& scales = header["model.embed_tokens.weight_scale"];
  ASSERT_EQ(scales["dtype"], "BF16");
  const uint64_t end = 8 + length + scales["data_offsets"][1].get<uint64_t>();
  bytes[end - 2] = '\xc0';
  bytes[end - 1] = '\x7f';
  dir.Write("model.safetensors", bytes);
  for (const int tp : {1, 3}) {
    const absl::Status status = RunWorld(dir.path(), {.tp = tp}, [](Rank&) {});
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(
        status.message(),
        ::testing::HasSubstr("model.safetensors: tensor \"model.embed_tokens.weight_scale\": "
                             "found nan at row 135, group 1, expected a number"));
  }
}

TEST(WeightRequests, SayWhatIsWrong) {
  const auto message = [](const char* dtype, int64_t group, const char* head) {
    return std::string(model::WeightRequests::Parse(dtype, group, head).status().message());
  };
  EXPECT_EQ(message("int5", 0, "auto"),
            "--dtype: found 'int5', expected auto, fp32, fp16, bf16, fp8, int8 or int4");
  EXPECT_EQ(message("auto", 0, "q8"),
            "--head-dtype: found 'q8', expected auto, fp32, fp16, bf16, fp8, int8 or int4");
  EXPECT_EQ(message("int8", 48, "auto"), "--group-size: found 48, expected 32, 64 or 128");
  EXPECT_EQ(
      message("bf16", 32, "auto"),
      "--group-size: found 32, expected none without --dtype int8, int4 or fp8; give that too");
  const auto int4 = *model::WeightRequests::Parse("int4", 64, "auto");
  EXPECT_EQ(int4.head.bits, 8);
  EXPECT_EQ(int4.head.group_size, 64);
  const auto own = *model::WeightRequests::Parse("int8", 0, "fp16");
  EXPECT_EQ(own.head.bits, 0);
  EXPECT_EQ(own.head.dtype, kernels::DType::kF16);
  const auto fp8 = *model::WeightRequests::Parse("fp8", 0, "auto");
  EXPECT_EQ(FormatName(fp8.body.Of({})), "FP8, groups of 128");
  EXPECT_EQ(FormatName(fp8.head.Of({})), "BF16");
}

TEST(WeightRequests, NeedABackendThatMultipliesThem) {
  const auto cpu = *kernels::MakeCpuBackend("auto", {.threads = 1});
  const auto message = [&cpu](const char* dtype, const char* head) {
    return std::string(model::WeightRequests::Parse(dtype, 0, head)->Check(*cpu).message());
  };
  EXPECT_EQ(message("int4", "auto"), "");
  EXPECT_EQ(message("fp8", "auto"),
            "--dtype: found fp8, expected auto, fp32, fp16, bf16, int8 or int4 with --device cpu, "
            "which multiplies no floats of 8 bits; use --device cuda");
  EXPECT_THAT(message("auto", "fp8"), ::testing::StartsWith("--head-dtype: found fp8, expected"));
}

// Codes stay as they are where as many bits are asked for.
TEST(WeightRequests, KeepCodesThatFit) {
  const kernels::QuantFormat stored = {.bits = 4, .group_size = 128, .zero_points = true};
  const model::WeightFormat format = {.quant = stored};
  EXPECT_EQ(model::WeightRequest{}.Of(format).quant, stored);
  EXPECT_EQ(model::WeightRequest{.bits = 4}.Of(format).quant, stored);
  const model::WeightRequest other_group = {.bits = 4, .group_size = 32};
  EXPECT_EQ(other_group.Of(format).quant, (kernels::QuantFormat{.bits = 4, .group_size = 32}));
  EXPECT_EQ(model::WeightRequest{.bits = 8}.Of(format).quant->bits, 8);
  const kernels::QuantFormat floats = {.group_size = 128, .code_type = kernels::CodeType::kFloat8};
  EXPECT_EQ(model::WeightRequest{}.Of({.quant = floats}).quant, floats);
  EXPECT_EQ(FormatName(model::WeightRequest{.bits = 8}.Of({.quant = floats})),
            "INT8, groups of 32");
  EXPECT_FALSE(model::WeightRequest{.dtype = kernels::DType::kF16}.Of(format).quant.has_value());
}

TEST(WeightRequests, HoldMergedMatricesAlike) {
  using kernels::DType;
  using model::WeightFormat;
  const WeightFormat int4 = {.quant = kernels::QuantFormat{.bits = 4}};
  const WeightFormat wide_int4 = {.quant = kernels::QuantFormat{.bits = 4, .group_size = 128}};
  const WeightFormat int8 = {.quant = kernels::QuantFormat{.bits = 8}};
  const WeightFormat bf16 = {.dtype = DType::kBF16}, fp16 = {.dtype = DType::kF16};
  const auto name = [](const model::WeightRequest& request, std::vector<WeightFormat> stored) {
    return FormatName(request.OfAll(stored));
  };
  EXPECT_EQ(name({}, {int4, int4}), "INT4, groups of 32");
  EXPECT_EQ(name({}, {int4, int8}), "BF16");
  EXPECT_EQ(name({}, {int4, fp16, int4}), "F16");
  EXPECT_EQ(name({}, {int4, fp16, bf16}), "F32");
  EXPECT_EQ(name({.bits = 4}, {int4, bf16}), "INT4, groups of 32");
  EXPECT_EQ(name({.bits = 4}, {wide_int4, wide_int4}), "INT4, groups of 128");
  EXPECT_EQ(name({.bits = 4}, {wide_int4, bf16}), "INT4, groups of 32");
  EXPECT_EQ(name({.bits = 8, .group_size = 64}, {int4, int8}), "INT8, groups of 64");
  EXPECT_EQ(name({.dtype = DType::kF32}, {int4, bf16}), "F32");
}

}  // namespace
}  // namespace tandem
