// The decoder against logits of Hugging Face Transformers in float64, for small
// random models of both families (tests/golden/make_golden_logits.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/model_world.h"

namespace tandem {
namespace {

using testing::Rank;
using testing::RunWorld;
using testing::Sequence;
using testing::Step;

std::vector<std::string> Cases() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(SourcePath("tests/golden/logits"))) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class GoldenLogits : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenLogits, MatchTransformers) {
  const std::string folder = SourcePath("tests/golden/logits/" + GetParam());
  const auto golden = nlohmann::json::parse(std::ifstream(folder + "/golden.json"));
  for (int tp : {1, 3}) {
    const absl::Status status = RunWorld(folder, {.tp = tp}, [&](Rank& rank) {
      for (const auto& prompt : golden["prompts"]) {
        Sequence sequence;
        sequence.ids = prompt["prompt"].get<std::vector<int32_t>>();
        const auto expected = prompt["logits"].get<std::vector<double>>();
        const auto greedy = prompt["greedy"].get<std::vector<int32_t>>();
        for (int32_t b = 0; b < 32; ++b) sequence.blocks.push_back(b);
        Step prefill;
        prefill.Add(sequence, static_cast<int32_t>(sequence.ids.size()));
        std::vector<float> logits = rank.Forward(prefill);
        // Each of a value's roundings is off by at most u = 2^-24 of it. Along a
        // path they are as many as the sums have terms, so N u times the largest
        // logit bounds the error if no step magnifies relative errors; the norms
        // hold activations near one, so none does by much.
        const loader::ModelConfig& c = rank.decoder.config();
        const double n = static_cast<double>(
            c.num_layers * (2 * c.hidden_size + c.num_heads * c.head_dim + c.head_dim +
                            static_cast<int64_t>(sequence.ids.size()) + c.intermediate_size) +
            c.hidden_size);
        double largest = 0, square = 0;
        for (double v : expected) {
          largest = std::max(largest, std::abs(v));
          square += v * v;
        }
        // Products of bfloat16 weights round each activation once more, by anything up
        // to 2^-8 of it and so with a standard deviation of at most 2^-8 / sqrt(3); the
        // errors of a product's inputs average, so relative to its results they stay
        // that. A layer's seven products and the head have errors of their own, whose
        // squares add. Of so few logits none is off by more than 5 deviations.
        const double products =
            c.dtype == kernels::DType::kBF16 ? static_cast<double>(7 * c.num_layers + 1) : 0;
        const double deviation = std::sqrt(products / 3) / (1 << 8) *
                                 std::sqrt(square / static_cast<double>(expected.size()));
        const double tolerance = n / (1 << 24) * largest + 5 * deviation;
        // A greedy token is ahead of all others by at least this (LEAST_MARGIN in
        // make_golden_logits.py), and the difference of two logits has the squares of
        // both errors.
        const double margin = 0.02;
        const double behind =
            std::max(0.0, 2 * n / (1 << 24) * largest + 5 * std::sqrt(2.0) * deviation - margin);
        if (rank.index == 0) {
          ASSERT_EQ(logits.size(), expected.size());
          double worst = 0;
          for (size_t i = 0; i < expected.size(); ++i) {
            worst = std::max(worst, std::abs(logits[i] - expected[i]));
          }
          EXPECT_LE(worst, tolerance) << "TP " << tp;
        }
        for (int32_t token : greedy) {
          if (rank.index == 0) {
            const float best = *std::max_element(logits.begin(), logits.end());
            EXPECT_GE(logits[token], best - behind) << "TP " << tp;
          }
          sequence.ids.push_back(token);
          Step decode;
          decode.Add(sequence, 1);
          logits = rank.Forward(decode);
        }
      }
    });
    EXPECT_TRUE(status.ok()) << status;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenLogits, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem
