#include "launcher/command/eval_front.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/logits_hash.h"
#include "runtime/engine/step_plan.h"

namespace tandem::launcher {
namespace {

// A step of one sequence: tokens [begin, end) of the text, at positions from begin - window.begin.
void FillPlan(const std::vector<int32_t>& ids, const engine::TextWindow& window, int64_t begin,
              int64_t end, engine::StepPlan& plan) {
  plan.Clear();
  const int64_t first = begin - window.begin;
  const int64_t count = end - begin;
  plan.token_ids.assign(ids.begin() + begin, ids.begin() + end);
  plan.positions.resize(count);
  std::iota(plan.positions.begin(), plan.positions.end(), static_cast<int32_t>(first));
  plan.slot_mapping = plan.positions;  // blocks are in order
  plan.cu_seqlens_q = {0, static_cast<int32_t>(count)};
  plan.context_lens = {static_cast<int32_t>(first + count)};
  plan.block_tables.resize((first + count + model::kBlockSize - 1) / model::kBlockSize);
  std::iota(plan.block_tables.begin(), plan.block_tables.end(), 0);
  plan.max_blocks = static_cast<int32_t>(plan.block_tables.size());
  for (int64_t t = std::max(begin, window.first_scored); t < end; ++t) {
    plan.logits_indices.push_back(static_cast<int32_t>(t - begin));
  }
}

}  // namespace

absl::StatusOr<EvalResult> EvaluateText(rank::RankRuntime& runtime, const EvalJob& job,
                                        const LogitsFile* reference, LogitsFile* logits) {
  const std::vector<int32_t>& ids = job.text.ids;
  const auto vocab = static_cast<size_t>(runtime.config().vocab_size);
  EvalResult result;
  result.has_reference = reference != nullptr;
  engine::LogitsHash hash;
  engine::StepPlan plan;
  std::vector<float> rows(kEvalStepTokens * vocab), reference_row(reference == nullptr ? 0 : vocab);
  const auto start = std::chrono::steady_clock::now();
  for (const engine::TextWindow& window :
       engine::TextWindows(static_cast<int64_t>(ids.size()), job.context, job.stride)) {
    for (int64_t begin = window.begin; begin < window.end; begin += kEvalStepTokens) {
      const int64_t end = std::min(begin + kEvalStepTokens, window.end);
      FillPlan(ids, window, begin, end, plan);
      ++plan.sequence_number;
      const std::span<float> step(rows.data(), plan.logits_indices.size() * vocab);
      TANDEM_RETURN_IF_ERROR(runtime.runner().Execute(plan, step));
      for (size_t i = 0; i < plan.logits_indices.size(); ++i) {
        const std::span<const float> row = step.subspan(i * vocab, vocab);
        const int64_t position = begin + plan.logits_indices[i];
        if (!std::ranges::all_of(row, [](float logit) { return std::isfinite(logit); })) {
          return absl::InternalError(absl::StrCat(
              "NAN_LOGITS: token ", position, ": the model computed no number; check the weights"));
        }
        const int32_t next = ids[position + 1];
        if (reference != nullptr) {
          TANDEM_RETURN_IF_ERROR(reference->Read(result.loss.positions(), reference_row));
          result.loss.AddReference(reference_row, row, next);
        }
        result.loss.Add(row, next);
        hash.Update(row);
      }
      if (logits != nullptr) TANDEM_RETURN_IF_ERROR(logits->Write(step));
    }
  }
  if (logits != nullptr) TANDEM_RETURN_IF_ERROR(logits->Finish());
  result.logits_hash = hash.Digest();
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace tandem::launcher
