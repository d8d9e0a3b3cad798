// What `tandem eval` prints.
#include "absl/strings/str_format.h"
#include "launcher/command/eval_front.h"
#include "nlohmann/json.hpp"

namespace tandem::launcher {

namespace {

constexpr double kLn2 = 0.693147180559945309417;

double BitsPerByte(const EvalResult& result, const EvalJob& job) {
  return result.loss.mean_nll() * static_cast<double>(result.loss.positions()) / kLn2 /
         static_cast<double>(job.text.bytes);
}

}  // namespace

std::string EvalJson(const EvalResult& result, const EvalJob& job) {
  nlohmann::ordered_json json;
  json["tokens"] = result.loss.positions();
  json["bytes"] = job.text.bytes;
  json["context"] = job.context;
  json["stride"] = job.stride;
  json["nll"] = result.loss.mean_nll();
  json["perplexity"] = result.loss.perplexity();
  json["bits_per_byte"] = BitsPerByte(result, job);
  if (result.has_reference) {
    json["reference"] = {{"perplexity", result.loss.reference_perplexity()},
                         {"kl_divergence", result.loss.mean_divergence()},
                         {"kl_divergence_p99", result.loss.divergence_quantile(0.99)},
                         {"same_top_token", result.loss.same_top_share()}};
  }
  json["logits_hash"] = absl::StrFormat("%016x", result.logits_hash);
  json["seconds"] = result.seconds;
  return json.dump();
}

std::string EvalTable(const EvalResult& result, const EvalJob& job) {
  std::string text = absl::StrFormat(
      "%-22s %d (%d bytes), windows of %d, stride %d\n%-22s %.5f\n%-22s %.5f\n", "predicted tokens",
      result.loss.positions(), job.text.bytes, job.context, job.stride, "perplexity",
      result.loss.perplexity(), "bits a byte", BitsPerByte(result, job));
  if (result.has_reference) {
    absl::StrAppendFormat(&text, "%-22s %.5f\n%-22s %.3e nats, 99 %% below %.3e\n%-22s %.3f %%\n",
                          "reference perplexity", result.loss.reference_perplexity(),
                          "KL divergence", result.loss.mean_divergence(),
                          result.loss.divergence_quantile(0.99), "same top token",
                          100 * result.loss.same_top_share());
  }
  return text;
}

}  // namespace tandem::launcher
