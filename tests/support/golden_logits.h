// Golden logits of Hugging Face Transformers against a world of ranks.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/model_world.h"

namespace tandem::testing {

// Folders of tests/golden/KIND.
inline std::vector<std::string> GoldenCases(const std::string& kind) {
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(SourcePath("tests/golden/" + kind))) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Sizes of a prompt's expected logits.
struct LogitScale {
  double largest = 0;
  double root_mean_square = 0;
};

// How far a logit may be off, and how far a greedy token may be behind the best.
struct LogitBounds {
  double off = 0;
  double behind = 0;
};
using BoundsOf = LogitBounds (*)(const loader::ModelConfig& config, int64_t length,
                                 const LogitScale& scale);

// Each of a value's roundings is off by at most u = 2^-24 of it. Along a path they are as
// many as the sums have terms, so N u times the largest logit bounds the error if no step
// magnifies relative errors; the norms hold activations near one, so none does by much.
inline double PathRoundings(const loader::ModelConfig& c, int64_t length) {
  const double n =
      static_cast<double>(c.num_layers * (2 * c.hidden_size + c.num_heads * c.head_dim +
                                          c.head_dim + length + c.intermediate_size) +
                          c.hidden_size);
  return n / (1 << 24);
}

// Products that a path to the logits has: four in a layer, and the head.
inline double PathProducts(const loader::ModelConfig& c) {
  return static_cast<double>(4 * c.num_layers + 1);
}

// Prefills each prompt of the folder, then decodes the greedy tokens.
inline void CheckGoldenLogits(const std::string& folder, const WorldOptions& options,
                              BoundsOf bounds_of) {
  const auto golden = nlohmann::json::parse(std::ifstream(folder + "/golden.json"));
  const absl::Status status = RunWorld(folder, options, [&](Rank& rank) {
    for (const auto& prompt : golden["prompts"]) {
      Sequence sequence;
      sequence.ids = prompt["prompt"].get<std::vector<int32_t>>();
      const auto expected = prompt["logits"].get<std::vector<double>>();
      for (int32_t b = 0; b < 32; ++b) sequence.blocks.push_back(b);
      Step prefill;
      prefill.Add(sequence, static_cast<int32_t>(sequence.ids.size()));
      std::vector<float> logits = rank.Forward(prefill);
      LogitScale scale;
      for (double v : expected) {
        scale.largest = std::max(scale.largest, std::abs(v));
        scale.root_mean_square += v * v / static_cast<double>(expected.size());
      }
      scale.root_mean_square = std::sqrt(scale.root_mean_square);
      const LogitBounds bounds =
          bounds_of(rank.decoder.config(), static_cast<int64_t>(sequence.ids.size()), scale);
      if (rank.index == 0) {
        ASSERT_EQ(logits.size(), expected.size());
        double worst = 0;
        for (size_t i = 0; i < expected.size(); ++i) {
          // Not a number counts as well.
          const double off = std::abs(logits[i] - expected[i]);
          worst = off <= worst ? worst : off;
        }
        EXPECT_LE(worst, bounds.off) << "TP " << options.tp;
      }
      if (!prompt.contains("greedy")) continue;
      for (int32_t token : prompt["greedy"].get<std::vector<int32_t>>()) {
        if (rank.index == 0) {
          const float best = *std::max_element(logits.begin(), logits.end());
          EXPECT_GE(logits[token], best - bounds.behind) << "TP " << options.tp;
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

}  // namespace tandem::testing
