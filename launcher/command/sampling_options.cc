#include "launcher/command/sampling_options.h"

#include <CLI/CLI.hpp>

#include "absl/strings/numbers.h"

namespace tandem::launcher {

void AddSampling(CLI::App* app, SamplingOptions* options) {
  app->add_option("--max-tokens", options->max_tokens,
                  "Most tokens of the answer (default: what the context leaves)");
  app->add_option("--temperature", options->temperature, "0 is greedy");
  app->add_option("--top-k", options->top_k, "0 is off");
  app->add_option("--top-p", options->top_p, "1 is off");
  app->add_option("--min-p", options->min_p, "0 is off");
  app->add_option("--repetition-penalty", options->repetition_penalty, "1 is off");
  app->add_option("--presence-penalty", options->presence_penalty, "0 is off");
  app->add_option("--frequency-penalty", options->frequency_penalty, "0 is off");
  app->add_option("--logit-bias", options->logit_bias, "ID BIAS, added to that token's logit");
  app->add_option("--min-tokens", options->min_tokens, "No stop before so many tokens");
  app->add_flag("--ignore-eos", options->ignore_eos, "Go on past the model's own stop tokens");
  app->add_option("--stop", options->stop, "Text that ends the answer; may be given again")
      ->allow_extra_args(false);
  app->add_flag("--include-stop", options->include_stop, "Keep that text in the answer");
  app->add_option("--stop-token-ids", options->stop_token_ids, "Ids that end the answer: 1,2,3")
      ->delimiter(',');
  app->add_option("--seed", options->seed, "Default: a random one")
      // CLI11 would take a number that is too large as the largest.
      ->check([](const std::string& text) {
        int64_t value = 0;
        return absl::SimpleAtoi(text, &value) ? std::string()
                                              : "expected a 64-bit integer, found " + text;
      });
}

v1::SamplingParams ToProto(const SamplingOptions& options) {
  v1::SamplingParams params;
  if (options.temperature) params.set_temperature(static_cast<float>(*options.temperature));
  if (options.top_k) params.set_top_k(*options.top_k);
  if (options.top_p) params.set_top_p(static_cast<float>(*options.top_p));
  if (options.min_p) params.set_min_p(static_cast<float>(*options.min_p));
  if (options.repetition_penalty) {
    params.set_repetition_penalty(static_cast<float>(*options.repetition_penalty));
  }
  if (options.presence_penalty) {
    params.set_presence_penalty(static_cast<float>(*options.presence_penalty));
  }
  if (options.frequency_penalty) {
    params.set_frequency_penalty(static_cast<float>(*options.frequency_penalty));
  }
  for (const auto& [id, bias] : options.logit_bias) {
    (*params.mutable_logit_bias())[id] = static_cast<float>(bias);
  }
  if (options.seed) params.set_seed(*options.seed);
  if (options.max_tokens) params.set_max_tokens(*options.max_tokens);
  if (options.min_tokens) params.set_min_tokens(*options.min_tokens);
  if (options.ignore_eos) params.set_ignore_eos(true);
  for (const std::string& text : options.stop) params.add_stop(text);
  if (options.include_stop) params.set_include_stop(true);
  params.mutable_stop_token_ids()->Add(options.stop_token_ids.begin(),
                                       options.stop_token_ids.end());
  return params;
}

}  // namespace tandem::launcher
