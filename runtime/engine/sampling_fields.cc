#include "runtime/engine/sampling_fields.h"

#include <cstdlib>
#include <string_view>

#include "kernels/base/check.h"
#include "runtime/engine/speculation_options.h"

namespace tandem::engine {
namespace {

using Config = loader::GenerationConfig;
using Request = SamplingRequest;
using Float = SamplingScalar<float>;
using Int = SamplingScalar<int32_t>;
using Flag = SamplingScalar<bool>;

constexpr SamplingField kFields[] = {
    {.name = "max_tokens",
     // Also bounded by what the context leaves, which is the default.
     .value = Int{&Request::max_tokens, &SamplingParams::max_tokens},
     .range = {.lowest = 1, .words = "1 or more"},
     .help = "Most tokens of the answer (default: what the context leaves)",
     .openai_alias = "max_completion_tokens"},
    {.name = "temperature",
     .value = Float{&Request::temperature, &SamplingParams::temperature, &Config::temperature},
     .range = {.lowest = 0, .highest = 100, .words = "0 to 100"},
     .help = "0 is greedy"},
    {.name = "top_k",
     .value = Int{&Request::top_k, &SamplingParams::top_k, &Config::top_k},
     .range = {.lowest = 0, .words = "0 (off) or more"},
     .help = "0 is off"},
    {.name = "top_p",
     .value = Float{&Request::top_p, &SamplingParams::top_p, &Config::top_p},
     .range = {.lowest = 0, .highest = 1, .above_lowest = true, .words = "above 0, at most 1"},
     .help = "1 is off"},
    {.name = "min_p",
     .value = Float{&Request::min_p, &SamplingParams::min_p, &Config::min_p},
     .range = {.lowest = 0, .highest = 1, .words = "0 (off) to 1"},
     .help = "0 is off"},
    {.name = "repetition_penalty",
     .value = Float{&Request::repetition_penalty, &SamplingParams::repetition_penalty,
                    &Config::repetition_penalty},
     .range = {.lowest = 0,
               .highest = 100,
               .above_lowest = true,
               .words = "above 0, at most 100 (1 is off)"},
     .help = "1 is off"},
    {.name = "presence_penalty",
     .value = Float{&Request::presence_penalty, &SamplingParams::presence_penalty},
     .range = {.lowest = -2, .highest = 2, .words = "-2 to 2"},
     .help = "0 is off"},
    {.name = "frequency_penalty",
     .value = Float{&Request::frequency_penalty, &SamplingParams::frequency_penalty},
     .range = {.lowest = -2, .highest = 2, .words = "-2 to 2"},
     .help = "0 is off"},
    {.name = "logit_bias",
     .value = SamplingBiases{&Request::logit_bias, &SamplingParams::logit_bias, 1024, "ids"},
     .range = {.lowest = -100, .highest = 100, .words = "-100 to 100"},
     .help = "ID BIAS, added to that token's logit"},
    {.name = "min_tokens",
     .value = Int{&Request::min_tokens, &SamplingParams::min_tokens},
     .range = {.lowest = 0, .words = "0 to max_tokens"},
     .help = "No stop before so many tokens"},
    {.name = "ignore_eos",
     .value = Flag{&Request::ignore_eos, &SamplingParams::ignore_eos},
     .help = "Go on past the model's own stop tokens"},
    {.name = "stop",
     // Each text is searched for at every token.
     .value = SamplingTexts{.request = &Request::stop, .most = 16, .entries = "texts"},
     .range = {.lowest = 1, .highest = 256, .words = "1 to 256"},
     .help = "Text that ends the answer; may be given again"},
    {.name = "include_stop",
     .value = Flag{.request = &Request::include_stop},
     .help = "Keep that text in the answer",
     .in_openai_rows = false,
     .openai_alias = "include_stop_str_in_output"},
    {.name = "skip_special_tokens",
     .value = Flag{.request = &Request::skip_special_tokens},
     .help = "Leave special tokens out of the text; on by default",
     .on_by_default = true},
    {.name = "stop_token_ids",
     // More than any model has; bounds the work of a step.
     .value = SamplingIds{&Request::stop_token_ids, &SamplingParams::stop_token_ids, 256, "ids"},
     .help = "Ids that end the answer: 1,2,3"},
    {.name = "seed",
     // Any 64 bits; the default is random, and in a batch job derived from the row.
     .value = SamplingScalar<int64_t>{.request = &Request::seed},
     .help = "Default: a random one"},
    {.name = "n",
     // Also bounded by the engine's queue.
     .value = Int{&Request::n, &SamplingParams::n},
     .range = {.lowest = 1, .highest = kMaxChoices, .words = "1 to 64"},
     .help = "Answers to the prompt; needs --json",
     .option = SamplingOption::kOnDemand,
     .in_short_rows = false},
    {.name = "logprobs",
     .value = Int{&Request::logprobs, &SamplingParams::logprobs},
     .range = {.lowest = 0, .highest = 20, .words = "0 to 20"},
     .help = "Log-probabilities of the tokens and of so many others; needs --json",
     .option = SamplingOption::kOnDemand,
     // There it is a flag, or a number under another name.
     .in_openai_rows = false},
    {.name = "speculate",
     .value = Int{&Request::speculate, &SamplingParams::speculate},
     .range = {.lowest = 0, .highest = kMostDrafts, .words = "0 (off) to 32"},
     .help = "Most drafts of a step; the answer does not depend on it",
     .option = SamplingOption::kOnDemand},
};

}  // namespace

std::span<const SamplingField> SamplingFields() { return kFields; }

const SamplingField& SamplingFieldNamed(std::string_view name) {
  for (const SamplingField& field : kFields) {
    if (field.name == name) return field;
  }
  TANDEM_CHECK(!"a field of the table");
  std::abort();
}

}  // namespace tandem::engine
