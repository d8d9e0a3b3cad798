// Time of one Sampler::Run over a vocabulary of 128256 ids, by setting. Rows are shaped as
//   zipf 1.5   probability falls as rank^-1.5, much as a language model's does:
//              95 % lie in about 240 tokens
//   normal 3   normal logits, deviation 3: 95 % lie in about 11 thousand
//   normal 0.5 nearly flat: 95 % lie in about 110 thousand, top_p's worst case
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "runtime/engine/sampler.h"

namespace tandem::engine {
namespace {

constexpr int32_t kVocab = 128256;

enum class Shape { kZipf, kNormal3, kNormalHalf };

std::vector<std::vector<float>> Rows(Shape shape) {
  std::mt19937 random(1);
  std::vector<std::vector<float>> rows(8, std::vector<float>(kVocab));
  for (auto& row : rows) {
    if (shape == Shape::kZipf) {
      for (int32_t i = 0; i < kVocab; ++i) row[i] = -1.5f * std::log(i + 1.0f);
      std::shuffle(row.begin(), row.end(), random);
    } else {
      std::normal_distribution<float> normal(0.0f, shape == Shape::kNormal3 ? 3.0f : 0.5f);
      for (float& x : row) x = normal(random);
    }
  }
  return rows;
}

void SampleRows(benchmark::State& state, Shape shape, SamplingParams params) {
  Sampler sampler(kVocab, {});
  const std::vector<std::vector<float>> rows = Rows(shape);
  std::vector<int32_t> prompt(2000);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 31 % kVocab);
  Sample sample;
  size_t i = 0;
  for (auto _ : state) {
    params.seed = i;
    const absl::Status status = sampler.Run({.logits = rows[i++ % rows.size()],
                                             .params = params,
                                             .prompt_ids = prompt,
                                             .output_ids = {},
                                             .choice = 0},
                                            &sample);
    if (!status.ok()) state.SkipWithError("the sampler failed");
    benchmark::DoNotOptimize(sample.token_id);
  }
}

struct Setting {
  const char* name;
  SamplingParams params;
};

std::vector<Setting> Settings() {
  return {{"greedy", {.temperature = 0.0f}},
          {"greedy, repetition 1.1", {.temperature = 0.0f, .repetition_penalty = 1.1f}},
          {"greedy, logprobs 5", {.temperature = 0.0f, .logprobs = 5}},
          {"temperature 1", {}},
          {"top_k 50", {.top_k = 50}},
          {"top_k 50, top_p 0.95", {.top_k = 50, .top_p = 0.95f}},
          {"top_k 1000", {.top_k = 1000}},
          {"top_p 0.95", {.top_p = 0.95f}},
          {"temperature 0.6, top_p 0.95", {.temperature = 0.6f, .top_p = 0.95f}},
          {"min_p 0.05", {.min_p = 0.05f}}};
}

void Register() {
  const std::pair<const char*, Shape> shapes[] = {{"zipf 1.5", Shape::kZipf},
                                                  {"normal 3", Shape::kNormal3},
                                                  {"normal 0.5", Shape::kNormalHalf}};
  for (const auto& [shape_name, shape] : shapes) {
    for (const Setting& setting : Settings()) {
      const std::string name = std::string(shape_name) + "/" + setting.name;
      benchmark::RegisterBenchmark(name.c_str(), SampleRows, shape, setting.params)
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

}  // namespace
}  // namespace tandem::engine

int main(int argc, char** argv) {
  tandem::engine::Register();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
