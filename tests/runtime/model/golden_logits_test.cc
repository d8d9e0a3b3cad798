// The decoder against logits of Hugging Face Transformers in float64, for small
// random models of both families (tests/golden/make_golden_logits.py).
#include "tests/support/golden_logits.h"

#include <gtest/gtest.h>

#include <cmath>

namespace tandem {
namespace {

testing::LogitBounds Bounds(const loader::ModelConfig& config, int64_t length,
                            const testing::LogitScale& scale) {
  // Products of bfloat16 weights round each activation once more, by anything up
  // to 2^-8 of it and so with a standard deviation of at most 2^-8 / sqrt(3); the
  // errors of a product's inputs average, so relative to its results they stay
  // that. A layer's seven products and the head have errors of their own, whose
  // squares add. Of so few logits none is off by more than 5 deviations.
  const double products =
      config.dtype == kernels::DType::kBF16 ? static_cast<double>(7 * config.num_layers + 1) : 0;
  const double deviation = std::sqrt(products / 3) * 0x1p-8 * scale.root_mean_square;
  const double roundings = testing::PathRoundings(config, length) * scale.largest;
  // A greedy token is ahead of all others by at least this (LEAST_MARGIN in
  // make_golden_logits.py), and the difference of two logits has the squares of
  // both errors.
  constexpr double kMargin = 0.02;
  return {.off = roundings + 5 * deviation,
          .behind = std::max(0.0, 2 * roundings + 5 * std::sqrt(2.0) * deviation - kMargin)};
}

class GoldenLogits : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenLogits, MatchTransformers) {
  for (int tp : {1, 3}) {
    testing::CheckGoldenLogits(SourcePath("tests/golden/logits/" + GetParam()), {.tp = tp},
                               &Bounds);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GoldenLogits, ::testing::ValuesIn(testing::GoldenCases("logits")),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem
