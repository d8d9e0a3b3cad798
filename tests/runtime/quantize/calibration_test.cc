// The layer-by-layer pass computes what the model computes: with unquantized
// matrices its last hidden states give Transformers' logits.
#include "runtime/quantize/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/cpu/cpu_backend.h"
#include "runtime/loader/hf_config.h"
#include "runtime/model/model_tensors.h"
#include "runtime/quantize/error_compensation.h"
#include "tests/support/source_path.h"

namespace tandem::quantize {
namespace {

class CalibrationTest : public ::testing::TestWithParam<const char*> {};

TEST_P(CalibrationTest, GivesTheModelsLogits) {
  const std::string path = SourcePath(std::string("tests/golden/logits/") + GetParam());
  const auto golden = nlohmann::json::parse(std::ifstream(path + "/golden.json"));
  const auto folder = loader::ModelFolder::Open(path);
  ASSERT_TRUE(folder.ok());
  const auto config = loader::ReadConfig(*folder);
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = loader::Checkpoint::Open(*folder);
  ASSERT_TRUE(checkpoint.ok());
  const auto weights = SourceWeights::Take(**checkpoint, *config);
  ASSERT_TRUE(weights.ok()) << weights.status();
  const auto backend = *kernels::MakeCpuBackend("auto", {.threads = 2});

  // All prompts side by side: one must not see another.
  std::vector<std::vector<int32_t>> sequences;
  for (const auto& prompt : golden["prompts"]) {
    sequences.push_back(prompt["prompt"].get<std::vector<int32_t>>());
  }
  const auto calibration = Calibration::Create(*config, **weights, *backend, sequences);
  ASSERT_TRUE(calibration.ok());
  for (int64_t layer = 0; layer < config->num_layers; ++layer) {
    const absl::Status status =
        (*calibration)
            ->RunLayer(
                layer,
                [&](const CalibrationStage& stage)
                    -> absl::StatusOr<std::unique_ptr<kernels::LinearWeight>> {
                  std::vector<float> merged;
                  for (const std::string& module : stage.modules) {
                    const int64_t rows = (*weights)->Get(module + ".weight").rows();
                    const size_t begin = merged.size();
                    merged.resize(begin + static_cast<size_t>(rows * stage.columns));
                    const absl::Status read =
                        (*weights)->ReadRows(module + ".weight", 0, rows, &merged[begin]);
                    if (!read.ok()) return read;
                  }
                  const int64_t leaf = 128;
                  const kernels::LinearSpec spec = {
                      .dtype = kernels::DType::kF32,
                      .rows = static_cast<int64_t>(merged.size()) / stage.columns,
                      .global_columns = stage.columns,
                      .leaf_size = leaf,
                      .leaves = {0, (stage.columns + leaf - 1) / leaf}};
                  return backend->PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* dst) {
                    std::copy(&merged[begin * stage.columns], merged.data() + end * stage.columns,
                              reinterpret_cast<float*>(dst));
                    return absl::OkStatus();
                  });
                });
    ASSERT_TRUE(status.ok()) << status;
  }

  const int64_t hidden = config->hidden_size;
  const auto norm = *(*weights)->ReadVector(std::string(model::kFinalNorm));
  const std::string head_name =
      std::string(config->tie_word_embeddings ? model::kEmbedding : model::kHead) + ".weight";
  std::vector<float> head(config->vocab_size * hidden);
  ASSERT_TRUE((*weights)->ReadRows(head_name, 0, config->vocab_size, head.data()).ok());
  int64_t last = -1;
  for (size_t i = 0; i < sequences.size(); ++i) {
    last += static_cast<int64_t>(sequences[i].size());
    std::vector<float> row(&(*calibration)->residual()[last * hidden],
                           &(*calibration)->residual()[last * hidden] + hidden);
    std::vector<float> normed(hidden), logits(config->vocab_size);
    backend->AddRmsNorm(nullptr, nullptr, row.data(), norm.data(),
                        static_cast<float>(config->rms_norm_eps), 1, hidden, normed.data());
    backend->Synchronize();
    ASSERT_TRUE(ProductOfRows(*backend, head.data(), config->vocab_size, hidden, normed.data(), 1,
                              hidden, logits.data())
                    .ok());
    const auto expected = golden["prompts"][i]["logits"].get<std::vector<double>>();
    ASSERT_EQ(expected.size(), logits.size());
    double largest = 0, worst = 0;
    for (size_t j = 0; j < expected.size(); ++j) {
      largest = std::max(largest, std::abs(expected[j]));
      worst = std::max(worst, std::abs(expected[j] - logits[j]));
    }
    // As many roundings as golden_logits_test.cc counts.
    const double n = static_cast<double>(
        config->num_layers *
            (2 * hidden + config->num_heads * config->head_dim + config->head_dim +
             static_cast<int64_t>(sequences[i].size()) + config->intermediate_size) +
        hidden);
    EXPECT_LE(worst, n * largest / (1 << 24)) << "prompt " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, CalibrationTest,
                         ::testing::Values("llama_fp32", "llama_biases", "llama_gqa",
                                           "llama_rope_yarn", "qwen3_tied"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace tandem::quantize
