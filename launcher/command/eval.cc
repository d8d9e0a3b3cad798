#include "launcher/command/eval.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"
#include "launcher/command/eval_front.h"
#include "launcher/command/model_tokenizer.h"
#include "launcher/command/option_checks.h"
#include "launcher/command/output.h"
#include "launcher/world/start.h"
#include "runtime/rank/exit_code.h"
#include "runtime/rank/start.h"

namespace tandem::launcher {
namespace {

constexpr size_t kMaxEvalTextBytes = size_t{1} << 30;
constexpr int64_t kMostDefaultContext = 2048;

// The tokens of the text, with the special tokens of a prompt.
absl::StatusOr<EvalText> ReadEvalText(const EvalOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, LoadTokenizer(options.model.model));
  if (tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat(options.model.model, " has no tokenizer.json, which --text needs"));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string bytes, ReadTextFile(options.text, kMaxEvalTextBytes));
  EvalText text;
  TANDEM_ASSIGN_OR_RETURN(text.ids, tokenizer->Encode(bytes, /*add_special_tokens=*/true));
  if (text.ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.text, ": found ", text.ids.size(), " tokens, expected at least 2"));
  }
  // Nothing predicts the first token: if it is not a special token, its bytes do not count.
  TANDEM_ASSIGN_OR_RETURN(const std::string first,
                          tokenizer->Decode(std::span(text.ids).first(1), /*skip_special=*/true));
  text.bytes = bytes.size() - std::min(bytes.size(), first.size());
  return text;
}

// One pass of the text through one model. Pointers may be null.
struct EvalPass {
  std::string model;
  bool as_stored = false;                 // otherwise --dtype, --group-size and --head-dtype apply
  const LogitsFile* reference = nullptr;  // to compare with
  LogitsFile* logits = nullptr;           // to write
  int64_t vocab = 0;                      // that the model must have; 0: any
};

rank::RankOptions EvalRankOptions(const EvalOptions& options, const EvalPass& pass) {
  rank::RankOptions rank = RankOptionsOf(options.model);
  rank.model = pass.model;
  if (pass.as_stored) {
    rank.dtype = "auto";
    rank.group_size = 0;
    rank.head_dtype = "auto";
  }
  rank.max_num_seqs = 1;
  rank.max_rows = kEvalStepTokens;
  rank.max_batched_tokens = kEvalStepTokens;
  rank.used_context = options.context > 0 ? options.context : kMostDefaultContext;
  return rank;
}

// Fills in the window of the job, and checks the job against the loaded model.
absl::Status FitToModel(const rank::RankRuntime& runtime, const EvalOptions& options,
                        const EvalPass& pass, EvalJob& job) {
  const int64_t most = runtime.max_model_len();
  job.context = options.context > 0 ? options.context : std::min(kMostDefaultContext, most);
  job.stride = options.stride > 0 ? options.stride : job.context;
  if (job.context > most) {
    return absl::InvalidArgumentError(absl::StrCat("--context: found ", job.context,
                                                   ", expected at most ", most, ", the limit of ",
                                                   pass.model, " here"));
  }
  if (job.stride > job.context) {
    return absl::InvalidArgumentError(absl::StrCat("--stride: found ", job.stride,
                                                   ", expected at most --context, ", job.context));
  }
  const int64_t vocab = runtime.config().vocab_size;
  if (pass.vocab != 0 && pass.vocab != vocab) {
    return absl::InvalidArgumentError(absl::StrCat("--reference: found a vocabulary of ",
                                                   pass.vocab, ", expected ", vocab, " as ",
                                                   pass.model, " has"));
  }
  for (const int32_t id : job.text.ids) {
    if (id >= 0 && id < vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("--text: found the token ", id,
                                                   ", expected one below ", vocab,
                                                   ", the vocabulary of ", pass.model));
  }
  return absl::OkStatus();
}

// On rank 0 of a loaded world.
absl::StatusOr<EvalResult> Evaluate(rank::RankRuntime& runtime, const EvalOptions& options,
                                    const EvalPass& pass, EvalJob& job) {
  TANDEM_RETURN_IF_ERROR(FitToModel(runtime, options, pass, job));
  if (options.reference_logits.empty()) {
    return EvaluateText(runtime, job, pass.reference, pass.logits);
  }
  const auto predicted = static_cast<int64_t>(job.text.ids.size()) - 1;
  TANDEM_ASSIGN_OR_RETURN(
      const LogitsFile reference,
      LogitsFile::Open(options.reference_logits, predicted, runtime.config().vocab_size));
  return EvaluateText(runtime, job, &reference, pass.logits);
}

struct EvaluatedModel {
  int64_t vocab = 0;
  EvalResult result;  // on rank 0
};

// Loads a model, runs the text through it and ends its steps.
rank::RankOutcome EvalModel(rank::JoinedWorld& joined, const EvalOptions& options,
                            const EvalPass& pass, EvalJob& job, EvaluatedModel* evaluated) {
  parallel::MpiWorld* const world = joined.world.get();
  const auto loaded = rank::RankRuntime::Load(world, EvalRankOptions(options, pass));
  if (!loaded.ok()) return rank::ReportAgreedError(world, loaded.status());
  rank::RankRuntime& runtime = **loaded;
  evaluated->vocab = runtime.config().vocab_size;
  absl::StatusOr<EvalResult> result = EvalResult();
  if (joined.rank() == 0) {
    result = Evaluate(runtime, options, pass, job);
    if (rank::IsRankFailure(world, result.status())) {
      return rank::AbortAfterRankFailure(world, result.status());
    }
    if (absl::Status status = runtime.runner().Shutdown(); !status.ok()) {
      return rank::AbortWorld(world, status);
    }
  } else if (absl::Status status = runtime.Work(); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  if (const absl::Status agreed = AgreeOnStatus(*joined.communicator, result.status());
      !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  evaluated->result = *std::move(result);
  return rank::Done();
}

rank::RankOutcome Eval(rank::JoinedWorld& joined, const EvalOptions& options) {
  const int rank = joined.rank();
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
  if (const absl::Status agreed = AgreeOnStatus(*joined.communicator, prepared); !agreed.ok()) {
    return rank::ReportAgreedError(joined.world.get(), agreed);
  }
  EvalJob job = {.text = text};
  EvalPass pass = {.model = options.model.model};
  EvaluatedModel evaluated;
  // One model after the other, so that only one has to fit in memory at a time.
  if (!options.reference.empty()) {
    EvalPass first = {.model = options.reference, .as_stored = true};
    if (rank == 0) first.logits = &*reference;
    const rank::RankOutcome outcome = EvalModel(joined, options, first, job, &evaluated);
    if (!outcome.done()) return outcome;
    pass.vocab = evaluated.vocab;
    if (rank == 0) pass.reference = &*reference;
  }
  if (logits.has_value()) pass.logits = &*logits;
  const rank::RankOutcome outcome = EvalModel(joined, options, pass, job, &evaluated);
  if (!outcome.done()) return outcome;
  if (rank == 0) {
    const std::string report =
        options.json ? EvalJson(evaluated.result, job) + "\n" : EvalTable(evaluated.result, job);
    if (absl::Status status = WriteStdout(report); !status.ok())
      return rank::ReportOwnError(status);
  }
  return rank::Done();
}

int RunEvalRank(const EvalOptions& options) {
  return rank::RunRank({spdlog::level::warn, options.model.start_timeout},
                       [&](rank::JoinedWorld& joined) { return Eval(joined, options); });
}

}  // namespace

CLI::App* AddEval(CLI::App& parent, EvalOptions* options) {
  CLI::App* app = parent.add_subcommand("eval", "Measure how well a model predicts a text");
  AddModelOptions(app, &options->model);
  app->add_option("--text", options->text, "Text file to predict")->required();
  CLI::Option* reference =
      app->add_option("--reference", options->reference,
                      "Model to compare with, loaded as stored: a folder or a hub name");
  app->add_option("--reference-logits", options->reference_logits,
                  "Logits to compare with, as --logits wrote them")
      ->excludes(reference);
  app->add_option("--logits", options->logits, "Write the logits to this file, raw float32");
  app->add_option("--context", options->context,
                  "Tokens per window (default: the model's limit, at most 2048)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  app->add_option("--stride", options->stride,
                  "Tokens from one window to the next (default: --context)")
      ->check(CLI::Range(int64_t{1}, kMaxCount));
  app->add_flag("--json", options->json, "Print one JSON object");
  return app;
}

absl::StatusOr<int> RunEval(const EvalOptions& options, char** argv) {
  WorldOptions world;
  world.relay_stdout = true;
  return RunRankOrWorld({.tp = options.model.tp, .hosts = options.model.hosts, .world = world},
                        argv, [&] { return RunEvalRank(options); });
}

}  // namespace tandem::launcher
