#include "runtime/loader/rope_frequencies.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/loader/hf_config.h"

namespace tandem::loader {
namespace {

struct Golden {
  const char* name;
  int64_t head_dim;
  double attention_factor;
  std::vector<float> frequencies;
};

const std::vector<Golden>& Goldens() {
  static const std::vector<Golden> goldens = {
#include "tests/runtime/loader/rope_golden.inc"
  };
  return goldens;
}

// theta, max_position_embeddings and rope_scaling as make_rope_golden.py has them.
std::string Fields(const std::string& name) {
  const std::string llama31 =
      R"("low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192,
         "rope_type":"llama3")";
  const std::string yarn =
      R"("rope_type":"yarn","factor":4.0,"original_max_position_embeddings":32768)";
  const std::map<std::string, std::string> fields = {
      {"stories260k", R"("rope_theta":10000.0,"max_position_embeddings":512)"},
      {"qwen3_8b", R"("rope_theta":1000000,"max_position_embeddings":40960)"},
      {"linear", R"("rope_theta":10000.0,"max_position_embeddings":4096,
         "rope_scaling":{"type":"linear","factor":3.0})"},
      {"llama31_8b", R"("rope_theta":500000.0,"max_position_embeddings":131072,
         "rope_scaling":{"factor":8.0,)" +
                         llama31 + "}"},
      {"llama32_1b", R"("max_position_embeddings":131072,
         "rope_parameters":{"rope_theta":500000.0,"factor":32.0,)" +
                         llama31 + "}"},
      {"qwen3_8b_yarn", R"("rope_theta":1000000,"max_position_embeddings":131072,
         "rope_scaling":{)" +
                            yarn + "}"},
      {"r1_0528_qwen3_8b", R"("rope_theta":1000000,"max_position_embeddings":131072,
         "rope_scaling":{"attn_factor":0.8782488562869419,)" +
                               yarn + "}"},
      {"yarn_not_truncated", R"("rope_theta":150000,"max_position_embeddings":131072,
         "rope_scaling":{"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,
         "original_max_position_embeddings":4096,"truncate":false})"},
      {"yarn_mscale", R"("rope_theta":10000,"max_position_embeddings":163840,
         "rope_scaling":{"rope_type":"yarn","factor":40.0,"mscale":1.0,"mscale_all_dim":0.8,
         "original_max_position_embeddings":4096})"},
      {"yarn_low_equals_high", R"("rope_theta":10000,"max_position_embeddings":64,
         "rope_scaling":{"rope_type":"yarn","factor":16.0,
         "original_max_position_embeddings":4})"},
  };
  return fields.at(name);
}

RopeConfig Case(const Golden& golden) {
  const std::string text = R"({"architectures":["LlamaForCausalLM"],"hidden_size":256,
      "intermediate_size":4,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":9,
      "head_dim":)" + std::to_string(golden.head_dim) +
                           "," + Fields(golden.name) + "}";
  const auto config = ParseConfig(text, golden.name);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? config->rope : RopeConfig();
}

int64_t Ulps(float a, float b) {
  return std::abs(int64_t{std::bit_cast<int32_t>(a)} - int64_t{std::bit_cast<int32_t>(b)});
}

TEST(RopeFrequencies, AreThoseOfTransformers) {
  // Theirs come from SLEEF's powf, ours from a rounded powl. SLEEF promises 1
  // ulp; a reciprocal can make 2 of it where the mantissa wraps; what follows
  // is the same float32 steps, and llama3's blend may carry them further by one.
  constexpr int64_t kTolerance = 2;
  ASSERT_EQ(Goldens().size(), 10u);
  for (const Golden& golden : Goldens()) {
    const RopeConfig rope = Case(golden);
    EXPECT_NEAR(rope.attention_factor, golden.attention_factor, 1e-15) << golden.name;
    const std::vector<float> frequencies = InverseFrequencies(rope, golden.head_dim);
    ASSERT_EQ(frequencies.size(), golden.frequencies.size()) << golden.name;
    int64_t worst = 0, unequal = 0;
    for (size_t j = 0; j < frequencies.size(); ++j) {
      const int64_t ulps = Ulps(frequencies[j], golden.frequencies[j]);
      EXPECT_LE(ulps, kTolerance) << golden.name << " " << j;
      worst = std::max(worst, ulps);
      unequal += ulps != 0;
    }
    std::printf("%-22s worst %lld ulp, %lld of %zu differ\n", golden.name,
                static_cast<long long>(worst), static_cast<long long>(unequal), frequencies.size());
  }
}

TEST(RopeFrequencies, AttnFactorIsIgnoredAsInTransformers) {
  for (const Golden& golden : Goldens()) {
    if (std::string(golden.name) != "r1_0528_qwen3_8b") continue;
    EXPECT_NEAR(Case(golden).attention_factor, 0.1 * std::log(4.0) + 1.0, 1e-15);
  }
}

}  // namespace
}  // namespace tandem::loader
