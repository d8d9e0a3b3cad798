// Chooses the next token of one sequence from its row of logits. The result is a pure function of
// (logits, parameters, tokens so far, choice index): the same on every CPU, in every batch, and
// after a pre-emption or a restart.
//
// Order of operations:
//   1. logprobs, if requested: log-softmax of the model's raw logits, before
//      anything below (the default of vLLM).
//   2. logit_bias is added.
//   3. repetition_penalty, as Transformers: the logit of every id that occurs in
//      prompt or output is divided by it when positive, else multiplied.
//   4. frequency and presence penalties, as the OpenAI API: minus
//      count * frequency_penalty, minus presence_penalty, over the output.
//   5. min_tokens: stop ids are banned until that many tokens are out.
//   6. temperature 0: the largest logit. Otherwise
//   7. temperature, top_k, top_p, min_p, in the order of Transformers. (vLLM
//      applies min_p before top_k and top_p: other sets only where top_p and
//      min_p are both on.)
//   8. a draw among what is left.
//
// Ties go to the lowest id everywhere: tokens are ordered by logit descending,
// then id. top_k keeps exactly k. top_p keeps the shortest prefix of that order
// whose probability reaches top_p of what top_k left. min_p keeps tokens with
// at least min_p times the largest probability.
//
// A token's weight is exp((logit - largest) / temperature) in 44-bit fixed
// point, rounded to nearest. Sums of integers are exact in any order, so
// selection may take shortcuts without changing a bit. A token less likely than
// 2^-45 of the likeliest has weight 0 and is never drawn (fp32 softmax loses
// them at about 2^-24).
//
// The draw is Philox4x32-10 with key = seed and counter = (position, choice
// index, 0, 0). Position is the drawn token's index in prompt plus output: a generation that
// continues from prompt plus partial output draws as if it had never stopped. The first 64 bits,
// scaled to the sum of the kept weights, are looked up in the running sum of the weights in order
// of ids.
//
// If logits lie in GPU memory, Choose makes the same choice from the ranks' surveys of their
// columns (kernels/sampling.h): the same integers, so the same token.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sampling.h"
#include "runtime/engine/engine_client.h"
#include "runtime/engine/sampling_params.h"

namespace tandem::engine {

struct SampleInput {
  std::span<const float> logits;  // [vocab], raw; for Run alone
  const SamplingParams& params;   // valid, see ValidateSamplingParams
  std::span<const int32_t> prompt_ids;
  std::span<const int32_t> output_ids;
  int32_t choice = 0;
};

struct Sample {
  int32_t token_id = -1;
  // Where params.logprobs >= 0: of the chosen token, and of the params.logprobs
  // likeliest in order.
  float logprob = 0.0f;
  std::vector<TokenLogprob> top_logprobs;
};

// Owns scratch of about 20 bytes an id; single-threaded.
class Sampler {
 public:
  static constexpr int32_t kMaxVocabSize = 1 << 19;  // sums of weights fit 64 bits

  Sampler(int32_t vocab_size, std::vector<int32_t> eos_token_ids);

  // Whether the id ends a sequence with these parameters.
  bool IsStop(int32_t token_id, const SamplingParams& params) const;

  // INTERNAL "NAN_LOGITS: ..." for a NaN, plus infinity, or nothing but minus
  // infinity in the raw logits; INVALID_ARGUMENT when bias and penalties left
  // no token. Reuses sample's memory.
  absl::Status Run(const SampleInput& input, Sample* sample);

  // The survey that Choose needs in place of the row, from ranks that list `candidates` tokens
  // each; kWhole if only Run can choose.
  kernels::SampleRequest MakeRequest(const SampleInput& input, int32_t candidates) const;

  // The token that Run would choose, from all ranks' surveys of the row, in order of ids. -1 if the
  // surveys do not suffice: too few candidates, or logits that are not numbers.
  int32_t Choose(const SampleInput& input, std::span<const kernels::RankSurvey> ranks);

 private:
  bool UsesTopK(const SamplingParams& params) const;
  // The row after steps 2 to 5: the raw one, or row_ where something applied.
  std::span<const float> Process(const SampleInput& input);
  void FillLogprobs(std::span<const float> logits, float largest, int32_t k, Sample* sample);
  int32_t Draw(std::span<const float> logits, float largest, const SampleInput& input);
  // Sets the weights of kept_, the first top_k tokens in order, and cuts it to top_p of them.
  void WeighTopK(float largest, const SamplingParams& params);
  // Draws from kept_, a prefix of the order whose weights are set, those that min_p keeps.
  // `logits` may be empty.
  int32_t DrawKept(std::span<const float> logits, const SampleInput& input);
  // Sets kept_ to the first k tokens of the order, sorted.
  void SelectTopK(std::span<const float> logits, int32_t k);
  // Sets kept_ to the tokens that weigh at least `bar`, and returns their sum.
  uint64_t GatherAbove(std::span<const float> logits, uint64_t bar);
  // Sets kept_ to the shortest prefix of the order, unsorted, whose weight reaches `needed`.
  void SelectByWeight(std::span<const float> logits, uint64_t needed);
  // Sorts kept_, a prefix of the order, by id; with the logits faster where it is long.
  void OrderKeptById(std::span<const float> logits);

  const int32_t vocab_size_;
  const std::vector<int32_t> eos_token_ids_;
  std::vector<float> row_;         // [vocab]
  std::vector<uint32_t> counts_;   // [vocab], all 0 between calls
  std::vector<uint64_t> weights_;  // [vocab]
  std::vector<uint64_t> kept_;     // [<= vocab], packed tokens (kernels/base/sampling_math.h)
  std::vector<size_t> taken_;      // candidates of each rank, while they are merged
};

}  // namespace tandem::engine
