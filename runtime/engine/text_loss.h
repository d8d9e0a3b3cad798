// How well logits predict a text, and how far they are from those of a reference.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::engine {

// Input tokens [begin, end) of a text, computed from position 0; the logits of input t predict
// token t + 1. Only predictions of inputs [first_scored, end) count.
struct TextWindow {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t first_scored = 0;
};

// Windows of at most `context` inputs, `stride` apart, over a text of `tokens`:
// every token but the first is predicted once, by the earliest window that
// reaches it. 1 <= stride <= context.
std::vector<TextWindow> TextWindows(int64_t tokens, int64_t context, int64_t stride);

// Sums up positions; the same numbers on every machine.
class TextLoss {
 public:
  // Logits [vocab] of one position, all finite, and the token that came.
  void Add(std::span<const float> logits, int32_t next);
  // Also takes the reference's logits of the same position, all finite: its distribution counts as
  // the true one.
  void AddReference(std::span<const float> reference, std::span<const float> logits, int32_t next);

  int64_t positions() const { return positions_; }
  double mean_nll() const;  // nats a token
  double perplexity() const;
  double reference_perplexity() const;
  double mean_divergence() const;                  // Kullback-Leibler, nats
  double divergence_quantile(double share) const;  // of the positions, nearest rank
  double same_top_share() const;                   // the lowest id where logits tie

 private:
  int64_t positions_ = 0;
  double nll_ = 0;
  double reference_nll_ = 0;
  int64_t same_top_ = 0;
  std::vector<double> divergences_;
};

}  // namespace tandem::engine
