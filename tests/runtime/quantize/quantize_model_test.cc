// Plan, quantize and write a small model, and read the new folder's tensors.
#include "runtime/quantize/quantize_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/base/math.h"
#include "kernels/cpu/cpu_backend.h"
#include "runtime/loader/hf_config.h"
#include "runtime/quantize/source_weights.h"
#include "tests/runtime/loader/temp_dir.h"
#include "tests/support/source_path.h"

namespace tandem::quantize {
namespace {

using ::testing::HasSubstr;

struct Source {
  explicit Source(const std::string& name)
      : folder(*loader::ModelFolder::Open(SourcePath(name))),
        config(*loader::ReadConfig(folder)),
        checkpoint(*loader::Checkpoint::Open(folder)) {}
  loader::ModelFolder folder;
  loader::ModelConfig config;
  std::unique_ptr<loader::Checkpoint> checkpoint;
};

constexpr char kDemo[] = "tests/models/demo";

TEST(PlanQuantization, DemoModel) {
  Source source(kDemo);
  const auto plan =
      PlanQuantization(source.config, *source.checkpoint, {.bits = 4, .group_size = 128});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->modules.size(), 1 + 4 * 7u);
  EXPECT_EQ(plan->copied.size(), 4 * 2 + 1u);  // the norms
  // 192 columns are no multiple of 128.
  EXPECT_EQ(plan->Find("model.layers.0.self_attn.q_proj")->format.group_size, 64);
  EXPECT_EQ(plan->Find("model.layers.3.self_attn.o_proj")->format.group_size, 128);
  EXPECT_EQ(plan->Find("model.layers.3.mlp.down_proj")->format.group_size, 128);
  const QuantizedModule* embedding = plan->Find("model.embed_tokens");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->format.bits, 8);
  EXPECT_EQ(embedding->format.scale_dtype, kernels::DType::kBF16);
  EXPECT_EQ(plan->Find("lm_head"), nullptr);  // tied
  EXPECT_EQ(plan->config["config_groups"].size(), 3u);

  const auto stored =
      PlanQuantization(source.config, *source.checkpoint, {.head_bits = std::nullopt});
  ASSERT_TRUE(stored.ok());
  EXPECT_EQ(stored->Find("model.embed_tokens"), nullptr);
}

TEST(PlanQuantization, UntiedHeadIsIgnoredWhereItStays) {
  Source source("tests/golden/logits/llama_gqa");
  ASSERT_FALSE(source.config.tie_word_embeddings);
  const auto plan = PlanQuantization(source.config, *source.checkpoint,
                                     {.group_size = 8, .head_bits = std::nullopt});
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->config["ignore"], nlohmann::json({"lm_head"}));
}

TEST(PlanQuantization, GroupsThatCannotDivide) {
  Source source("tests/golden/logits/llama_ffn_172");
  const auto plan = PlanQuantization(source.config, *source.checkpoint, {.group_size = 32});
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("172 columns of model.layers.0.mlp"));
}

// Root mean square of what quantization changed in a module, relative.
double ErrorOf(const loader::Checkpoint& checkpoint, const SourceWeights& source,
               const QuantizedModule& module) {
  const auto read = [&](const std::string& name) {
    const loader::TensorInfo* info = *checkpoint.Find(module.name + name);
    std::vector<std::byte> bytes(info->bytes);
    EXPECT_TRUE(
        checkpoint.file(info->file).file().Read(info->offset, bytes.size(), bytes.data()).ok());
    return bytes;
  };
  const std::vector<std::byte> packed = read(".weight_packed"), scales = read(".weight_scale");
  std::vector<std::byte> zeros;
  if (module.format.zero_points) zeros = read(".weight_zero_point");
  const auto code = [&](const std::vector<std::byte>& words, int64_t row_words, int64_t row,
                        int64_t column) {
    const int bits = module.format.bits;
    const int64_t bit = row * row_words * 32 + column * bits;
    return static_cast<int>(words[bit / 8]) >> (bit % 8) & ((1 << bits) - 1);
  };
  std::vector<float> w(module.rows * module.columns);
  EXPECT_TRUE(source.ReadRows(module.name + ".weight", 0, module.rows, w.data()).ok());
  const int64_t groups = module.columns / module.format.group_size;
  double error = 0, square = 0;
  for (int64_t row = 0; row < module.rows; ++row) {
    for (int64_t j = 0; j < module.columns; ++j) {
      const int64_t group = j / module.format.group_size;
      uint16_t scale;
      std::memcpy(&scale, &scales[2 * (row * groups + group)], 2);
      int zero = 1 << (module.format.bits - 1);
      if (module.format.zero_points) {  // packed along the rows: a word holds 8 of a group
        uint32_t word;
        std::memcpy(&word, &zeros[4 * (row / 8 * groups + group)], 4);
        zero = static_cast<int>(word >> (row % 8 * 4) & 15);
      }
      const int64_t row_words = (module.columns * module.format.bits + 31) / 32;
      const double value =
          kernels::Bf16ToFloat(scale) * (code(packed, row_words, row, j) - double(zero));
      const double original = w[row * module.columns + j];
      error += (value - original) * (value - original);
      square += original * original;
    }
  }
  return std::sqrt(error / square);
}

struct Case {
  QuantizeFormat format;
  QuantizeMethod method;
  double most;  // relative error of a matrix: what normal values would have, and a margin
};

class QuantizeModelTest : public ::testing::TestWithParam<Case> {};

TEST_P(QuantizeModelTest, FolderHoldsTheModel) {
  Source source(kDemo);
  const auto plan = PlanQuantization(source.config, *source.checkpoint, GetParam().format);
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<std::vector<int32_t>> calibration;
  if (GetParam().method == QuantizeMethod::kGptq) {
    for (int32_t s = 0; s < 8; ++s) {
      calibration.emplace_back();
      for (int32_t t = 0; t < 40 + s; ++t) calibration.back().push_back((t * 37 + s * 91) % 700);
    }
  }
  const loader::TempDir dir;
  dir.Write("config.json", "{}");
  const auto writer = CheckpointWriter::Create(dir.path(), plan->tensors);
  ASSERT_TRUE(writer.ok());
  const auto backend = *kernels::MakeCpuBackend("auto", {.threads = 2});
  kernels::ThreadPool pool(2);
  uint64_t done = 0;
  const absl::Status status = QuantizeModel({.config = source.config,
                                             .checkpoint = *source.checkpoint,
                                             .plan = *plan,
                                             .method = GetParam().method,
                                             .calibration = calibration,
                                             .backend = *backend,
                                             .pool = pool,
                                             .progress = [&](uint64_t bytes) { done = bytes; }},
                                            **writer);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(done, plan->source_bytes);
  ASSERT_TRUE((*writer)->Close().ok());

  const auto written = loader::Checkpoint::Open(*loader::ModelFolder::Open(dir.path()));
  ASSERT_TRUE(written.ok()) << written.status();
  Source again(kDemo);
  const auto weights = SourceWeights::Take(*again.checkpoint, again.config);
  for (const QuantizedModule& module : plan->modules) {
    const double error = ErrorOf(**written, **weights, module);
    EXPECT_LT(error, module.format.bits == 8 ? 0.012 : GetParam().most) << module.name;
    EXPECT_GT(error, module.format.bits == 8 ? 0.002 : 0.04) << module.name;
  }
  for (const std::string& name : plan->copied) {
    const loader::CheckpointTensor& tensor = (*weights)->Get(name);
    std::vector<std::byte> expected(tensor.info().bytes), found(tensor.info().bytes);
    ASSERT_TRUE(tensor.CopyAll(expected.data()).ok());
    const loader::TensorInfo* info = *(*written)->Find(name);
    ASSERT_TRUE((*written)->file(0).file().Read(info->offset, found.size(), found.data()).ok());
    EXPECT_EQ(found, expected) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Formats, QuantizeModelTest,
    ::testing::Values(
        Case{{.bits = 4, .group_size = 32}, QuantizeMethod::kRtn, 0.12},
        Case{{.bits = 4, .group_size = 64}, QuantizeMethod::kSearch, 0.11},
        Case{{.bits = 4, .group_size = 128, .zero_points = true, .head_bits = 4},
             QuantizeMethod::kSearch,
             0.12},
        Case{{.bits = 8, .group_size = 128}, QuantizeMethod::kSearch, 0.012},
        // Compensation moves single values further, for the sum's sake.
        Case{{.bits = 4, .group_size = 32}, QuantizeMethod::kGptq, 0.3},
        Case{{.bits = 4, .group_size = 64, .zero_points = true}, QuantizeMethod::kGptq, 0.3}));

}  // namespace
}  // namespace tandem::quantize
