#include "launcher/command/eval.h"

#include <algorithm>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/text_file.h"
#include "launcher/command/eval_front.h"
#include "launcher/command/runtime_options.h"
#include "runtime/loader/model_folder.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/start.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::launcher {
namespace {

constexpr size_t kMaxEvalTextBytes = size_t{1} << 30;
constexpr int64_t kMostDefaultContext = 2048;

// The text's tokens, as prompts have them: with the special tokens in front.
absl::StatusOr<EvalText> ReadEvalText(const EvalOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const auto folder, loader::ModelFolder::Open(options.model.model));
  if (!folder.Has("tokenizer.json")) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.model.model, " has no tokenizer.json, which --text needs"));
  }
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer,
                          tokenizer::Tokenizer::FromFile(folder.PathOf("tokenizer.json")));
  TANDEM_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(options.text, kMaxEvalTextBytes));
  EvalText text;
  TANDEM_ASSIGN_OR_RETURN(text.ids, tokenizer->Encode(bytes, /*add_special_tokens=*/true));
  if (text.ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.text, ": found ", text.ids.size(), " tokens, expected at least 2"));
  }
  // Nothing predicts the first token; where that is no special one, its bytes do not count.
  TANDEM_ASSIGN_OR_RETURN(const std::string first,
                          tokenizer->Decode(std::span(text.ids).first(1), /*skip_special=*/true));
  text.bytes = bytes.size() - std::min(bytes.size(), first.size());
  return text;
}

// What a pass of a text over one model needs. Pointers may be null.
struct EvalPass {
  std::string model;
  bool as_stored = false;                 // else as --dtype, --group-size and --head-dtype say
  const LogitsFile* reference = nullptr;  // to compare with
  LogitsFile* logits = nullptr;           // to be written
  int64_t vocab = 0;                      // that the model must have; 0: any
};

// Loads a model, runs the text through it and ends its steps. Rank 0 gets the result.
rank::RankOutcome EvalModel(rank::JoinedWorld& joined, const EvalOptions& options,
                            const EvalPass& pass, EvalJob& job, int64_t* vocab,
                            EvalResult* evaluated) {
  parallel::MpiWorld* const world = joined.world.get();
  parallel::ControlGroup& all = *joined.communicator;
  rank::RankOptions rank_options = RankOptionsOf(options.model);
  rank_options.model = pass.model;
  if (pass.as_stored) {
    rank_options.dtype = "auto";
    rank_options.group_size = 0;
    rank_options.head_dtype = "auto";
  }
  rank_options.max_num_seqs = 1;
  rank_options.max_rows = kEvalStepTokens;
  rank_options.max_batched_tokens = kEvalStepTokens;
  rank_options.used_context = options.context > 0 ? options.context : kMostDefaultContext;
  const auto loaded = rank::RankRuntime::Load(world, rank_options);
  if (!loaded.ok()) return rank::ReportAgreedError(world, loaded.status());
  const std::unique_ptr<rank::RankRuntime>& runtime = *loaded;
  *vocab = runtime->config().vocab_size;
  absl::StatusOr<EvalResult> result = EvalResult();
  if (all.rank() == 0) {
    result = [&]() -> absl::StatusOr<EvalResult> {
      const int64_t most = runtime->max_model_len();
      job.context = options.context > 0 ? options.context : std::min(kMostDefaultContext, most);
      job.stride = options.stride > 0 ? options.stride : job.context;
      if (job.context > most) {
        return absl::InvalidArgumentError(absl::StrCat("--context: found ", job.context,
                                                       ", expected at most ", most, ", what ",
                                                       pass.model, " allows here"));
      }
      if (job.stride > job.context) {
        return absl::InvalidArgumentError(absl::StrCat(
            "--stride: found ", job.stride, ", expected at most --context, ", job.context));
      }
      if (pass.vocab != 0 && pass.vocab != *vocab) {
        return absl::InvalidArgumentError(absl::StrCat("--reference: found a vocabulary of ",
                                                       pass.vocab, ", expected ", *vocab, " as ",
                                                       pass.model, " has"));
      }
      for (const int32_t id : job.text.ids) {
        if (id >= 0 && id < *vocab) continue;
        return absl::InvalidArgumentError(absl::StrCat("--text: found the token ", id,
                                                       ", expected one below ", *vocab,
                                                       ", the vocabulary of ", pass.model));
      }
      std::optional<LogitsFile> given;
      if (!options.reference_logits.empty()) {
        const auto predicted = static_cast<int64_t>(job.text.ids.size()) - 1;
        TANDEM_ASSIGN_OR_RETURN(given,
                                LogitsFile::Open(options.reference_logits, predicted, *vocab));
      }
      return RunEval(*runtime, job, given.has_value() ? &*given : pass.reference, pass.logits);
    }();
    if (rank::IsRankFailure(world, result.status())) {
      return rank::AbortAfterRankFailure(world, result.status());
    }
    if (absl::Status status = runtime->runner().Shutdown(); !status.ok()) {
      return rank::AbortWorld(world, status);
    }
  } else if (absl::Status status = runtime->Work(); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  if (const absl::Status agreed = AgreeOnStatus(all, result.status()); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  *evaluated = *std::move(result);
  return rank::Done();
}

rank::RankOutcome Eval(rank::JoinedWorld& joined, const EvalOptions& options) {
  parallel::MpiWorld* world = joined.world.get();
  parallel::ControlGroup* communicator = joined.communicator.get();
  const int rank = communicator->rank();

  EvalText text;
  std::optional<LogitsFile> logits, reference;
  const absl::Status prepared = [&]() -> absl::Status {
    if (rank != 0) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(text, ReadEvalText(options));
    if (!options.logits.empty()) {
      TANDEM_ASSIGN_OR_RETURN(logits, LogitsFile::Create(options.logits));
    }
    if (!options.reference.empty()) {
      TANDEM_ASSIGN_OR_RETURN(reference, LogitsFile::CreateTemporary());
    }
    return absl::OkStatus();
  }();
  if (const absl::Status agreed = AgreeOnStatus(*communicator, prepared); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  EvalJob job = {.text = text};
  EvalPass pass = {.model = options.model.model};
  int64_t vocab = 0;
  EvalResult result;
  // One model after the other, so that the larger of the two has to fit, not both.
  if (!options.reference.empty()) {
    EvalPass first = {.model = options.reference, .as_stored = true};
    if (rank == 0) first.logits = &*reference;
    const rank::RankOutcome outcome = EvalModel(joined, options, first, job, &vocab, &result);
    if (!outcome.done()) return outcome;
    pass.vocab = vocab;
    if (rank == 0) pass.reference = &*reference;
  }
  if (logits.has_value()) pass.logits = &*logits;
  const rank::RankOutcome outcome = EvalModel(joined, options, pass, job, &vocab, &result);
  if (!outcome.done()) return outcome;
  if (rank == 0) {
    std::cout << (options.json ? EvalJson(result, job) + "\n" : EvalTable(result, job))
              << std::flush;
    if (!std::cout) return rank::ReportOwnError(rank::OutputError("stdout: cannot be written"));
  }
  return rank::Done();
}

}  // namespace

int RunEvalRank(const EvalOptions& options) {
  return rank::RunRank({spdlog::level::warn, options.model.start_timeout},
                       [&](rank::JoinedWorld& joined) { return Eval(joined, options); });
}

}  // namespace tandem::launcher
