// `tandem eval` on rank 0: runs a text through the model in windows, and computes its perplexity
// and the distance of the logits from a reference.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/command/eval_logits_file.h"
#include "runtime/engine/text_loss.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::launcher {

// Input tokens of one step. Each has logits, which take the most memory after the weights.
inline constexpr int64_t kEvalStepTokens = 128;

struct EvalText {
  std::vector<int32_t> ids;
  uint64_t bytes = 0;  // of the text that the predicted tokens spell
};

struct EvalJob {
  const EvalText& text;
  int64_t context = 0;
  int64_t stride = 0;
};

struct EvalResult {
  engine::TextLoss loss;
  bool has_reference = false;
  uint64_t logits_hash = 0;  // XXH64 of all that --logits would write
  double seconds = 0;
};

// On rank 0 of a loaded world, whose vocabulary has the text's ids. Either file may be null.
absl::StatusOr<EvalResult> EvaluateText(rank::RankRuntime& runtime, const EvalJob& job,
                                        const LogitsFile* reference, LogitsFile* logits);

std::string EvalJson(const EvalResult& result, const EvalJob& job);
std::string EvalTable(const EvalResult& result, const EvalJob& job);

}  // namespace tandem::launcher
