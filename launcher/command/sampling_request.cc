#include "launcher/command/sampling_request.h"

namespace tandem::launcher {

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
