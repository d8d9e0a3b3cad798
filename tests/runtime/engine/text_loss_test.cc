#include "runtime/engine/text_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace tandem::engine {
namespace {

TEST(TextWindows, EveryTokenButTheFirstIsPredictedOnce) {
  for (int64_t tokens = 2; tokens < 60; ++tokens) {
    for (int64_t context = 1; context < 20; ++context) {
      for (int64_t stride = 1; stride <= context; ++stride) {
        int64_t scored = 0, begin = 0;
        for (const TextWindow& window : TextWindows(tokens, context, stride)) {
          EXPECT_EQ(window.begin, begin);
          EXPECT_EQ(window.first_scored, scored);
          EXPECT_GE(window.first_scored, window.begin);
          EXPECT_GT(window.end, window.first_scored);
          EXPECT_LE(window.end - window.begin, context);
          scored = window.end;
          begin += stride;
        }
        ASSERT_EQ(scored, tokens - 1);
      }
    }
  }
}

TEST(TextLoss, UniformLogits) {
  TextLoss loss;
  const std::vector<float> logits(64, 3.0f);
  loss.Add(logits, 5);
  loss.AddReference(logits, logits, 5);
  EXPECT_NEAR(loss.perplexity(), 64, 1e-9);
  EXPECT_NEAR(loss.reference_perplexity(), 64, 1e-9);
  EXPECT_NEAR(loss.mean_divergence(), 0, 1e-12);
  EXPECT_EQ(loss.same_top_share(), 1);
}

// Against the definitions, with the C library's exp and log.
TEST(TextLoss, MatchesTheDefinitions) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 4);
  TextLoss loss;
  const size_t vocab = 300;
  const int positions = 150;
  double nll = 0, reference_nll = 0, divergence = 0;
  int same = 0;
  std::vector<double> all;
  for (int p = 0; p < positions; ++p) {
    std::vector<float> a(vocab), b(vocab);
    for (size_t i = 0; i < vocab; ++i) {
      b[i] = normal(random);
      a[i] = b[i] + 0.3f * normal(random);
    }
    const auto next = static_cast<int32_t>(random() % vocab);
    loss.Add(a, next);
    loss.AddReference(b, a, next);
    double sum_a = 0, sum_b = 0;
    for (size_t i = 0; i < vocab; ++i) {
      sum_a += std::exp(double{a[i]});
      sum_b += std::exp(double{b[i]});
    }
    nll -= std::log(std::exp(double{a[next]}) / sum_a);
    reference_nll -= std::log(std::exp(double{b[next]}) / sum_b);
    double kl = 0;
    for (size_t i = 0; i < vocab; ++i) {
      const double q = std::exp(double{b[i]}) / sum_b;
      kl += q * std::log(q / (std::exp(double{a[i]}) / sum_a));
    }
    divergence += kl;
    all.push_back(kl);
    same += std::max_element(a.begin(), a.end()) - a.begin() ==
            std::max_element(b.begin(), b.end()) - b.begin();
  }
  // Sums of some hundred doubles: far from this.
  EXPECT_NEAR(loss.mean_nll(), nll / positions, 1e-9);
  EXPECT_NEAR(loss.perplexity(), std::exp(nll / positions), 1e-6);
  EXPECT_NEAR(loss.reference_perplexity(), std::exp(reference_nll / positions), 1e-6);
  EXPECT_NEAR(loss.mean_divergence(), divergence / positions, 1e-9);
  EXPECT_EQ(loss.same_top_share(), static_cast<double>(same) / positions);
  std::sort(all.begin(), all.end());
  EXPECT_NEAR(loss.divergence_quantile(0.99), all[148], 1e-9);
  EXPECT_NEAR(loss.divergence_quantile(1), all[149], 1e-9);
}

}  // namespace
}  // namespace tandem::engine
