#include "runtime/engine/text_loss.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/exact_math.h"

namespace tandem::engine {
namespace {

using kernels::ExactExp;
using kernels::ExactLog;

// log of the sum of exp(logits).
double LogSumExp(std::span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += ExactExp(double{logit} - most);
  return most + ExactLog(sum);
}

}  // namespace

std::vector<TextWindow> TextWindows(int64_t tokens, int64_t context, int64_t stride) {
  TANDEM_CHECK(1 <= stride && stride <= context);
  std::vector<TextWindow> windows;
  const int64_t inputs = tokens - 1;  // the last token is only predicted
  int64_t scored = 0;
  for (int64_t begin = 0; scored < inputs; begin += stride) {
    const int64_t end = std::min(begin + context, inputs);
    windows.push_back({begin, end, scored});
    scored = end;
  }
  return windows;
}

void TextLoss::Add(std::span<const float> logits, int32_t next) {
  nll_ += LogSumExp(logits) - double{logits[static_cast<size_t>(next)]};
  ++positions_;
}

void TextLoss::AddReference(std::span<const float> reference, std::span<const float> logits,
                            int32_t next) {
  TANDEM_CHECK(reference.size() == logits.size());
  const double reference_sum = LogSumExp(reference);
  const double sum = LogSumExp(logits);
  reference_nll_ += reference_sum - double{reference[static_cast<size_t>(next)]};
  double divergence = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = double{reference[i]} - reference_sum;
    divergence += ExactExp(log_p) * (log_p - (double{logits[i]} - sum));
  }
  // Rounding may leave a little less than nothing.
  divergences_.push_back(std::max(0.0, divergence));
  same_top_ += std::max_element(reference.begin(), reference.end()) - reference.begin() ==
                       std::max_element(logits.begin(), logits.end()) - logits.begin()
                   ? 1
                   : 0;
}

double TextLoss::mean_nll() const { return nll_ / static_cast<double>(positions_); }

double TextLoss::perplexity() const { return ExactExp(mean_nll()); }

double TextLoss::reference_perplexity() const {
  return ExactExp(reference_nll_ / static_cast<double>(divergences_.size()));
}

double TextLoss::mean_divergence() const {
  double sum = 0;
  for (const double divergence : divergences_) sum += divergence;
  return sum / static_cast<double>(divergences_.size());
}

double TextLoss::divergence_quantile(double share) const {
  std::vector<double> sorted = divergences_;
  std::sort(sorted.begin(), sorted.end());
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

double TextLoss::same_top_share() const {
  return static_cast<double>(same_top_) / static_cast<double>(divergences_.size());
}

}  // namespace tandem::engine
