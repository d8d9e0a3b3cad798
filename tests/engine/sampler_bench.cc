// Time of one Sampler::Run over a vocabulary of 128256 ids, by setting: the
// median of 200 rows in microseconds. Rows are shaped as
//   zipf 1.5   probability falls as rank^-1.5, much as a language model's does:
//              95 % lie in about 240 tokens
//   normal 3   normal logits, deviation 3: 95 % lie in about 11 thousand
//   normal 0.5 nearly flat: 95 % lie in about 110 thousand, top_p's worst case
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "runtime/engine/sampler.h"

namespace tandem::engine {
namespace {

constexpr int32_t kVocab = 128256;

double MedianMicroseconds(Sampler& sampler, const std::vector<std::vector<float>>& rows,
                          SamplingParams params) {
  std::vector<double> times;
  std::vector<int32_t> prompt(2000);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>(i * 31 % kVocab);
  Sample sample;
  for (int i = 0; i < 200; ++i) {
    params.seed = i;
    const auto begin = std::chrono::steady_clock::now();
    const absl::Status status = sampler.Run({.logits = rows[i % rows.size()],
                                             .params = params,
                                             .prompt_ids = prompt,
                                             .output_ids = {},
                                             .choice = 0},
                                            &sample);
    const auto end = std::chrono::steady_clock::now();
    if (!status.ok()) return -1;
    times.push_back(std::chrono::duration<double, std::micro>(end - begin).count());
  }
  std::nth_element(times.begin(), times.begin() + 100, times.end());
  return times[100];
}

void Run() {
  Sampler sampler(kVocab, {});
  for (const char* shape : {"zipf 1.5", "normal 3", "normal 0.5"}) {
    std::mt19937 random(1);
    std::vector<std::vector<float>> rows(8, std::vector<float>(kVocab));
    for (auto& row : rows) {
      if (shape[0] == 'z') {
        for (int32_t i = 0; i < kVocab; ++i) row[i] = -1.5f * std::log(i + 1.0f);
        std::shuffle(row.begin(), row.end(), random);
      } else {
        std::normal_distribution<float> normal(0.0f, shape[7] == '3' ? 3.0f : 0.5f);
        for (float& x : row) x = normal(random);
      }
    }
    const auto print = [&](const char* name, const SamplingParams& params) {
      std::printf("%-10s  %-28s %8.1f us\n", shape, name,
                  MedianMicroseconds(sampler, rows, params));
    };
    print("greedy", {.temperature = 0.0f});
    print("greedy, repetition 1.1", {.temperature = 0.0f, .repetition_penalty = 1.1f});
    print("greedy, logprobs 5", {.temperature = 0.0f, .logprobs = 5});
    print("temperature 1", {});
    print("top_k 50", {.top_k = 50});
    print("top_k 50, top_p 0.95", {.top_k = 50, .top_p = 0.95f});
    print("top_k 1000", {.top_k = 1000});
    print("top_p 0.95", {.top_p = 0.95f});
    print("temperature 0.6, top_p 0.95", {.temperature = 0.6f, .top_p = 0.95f});
    print("min_p 0.05", {.min_p = 0.05f});
  }
}

}  // namespace
}  // namespace tandem::engine

int main() { tandem::engine::Run(); }
