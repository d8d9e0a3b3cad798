#include "launcher/command/generate.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "launcher/command/generate_front.h"
#include "launcher/command/model_tokenizer.h"
#include "launcher/command/output.h"
#include "launcher/command/sampling_options.h"
#include "launcher/world/start.h"
#include "parallel/all_gather.h"
#include "runtime/rank/rank_runtime.h"
#include "runtime/rank/start.h"

namespace tandem::launcher {
namespace {

// Reads and tokenizes the prompt; only rank 0 does.
absl::Status ReadPrompt(const GenerateOptions& options, GenerateJob& job,
                        std::unique_ptr<tokenizer::Tokenizer>& tokenizer) {
  TANDEM_ASSIGN_OR_RETURN(tokenizer, LoadTokenizer(options.model.model));
  job.tokenizer = tokenizer.get();
  job.prompt_ids = options.prompt.ids;
  if (!options.prompt.text.has_value()) return absl::OkStatus();
  if (tokenizer == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(
        options.model.model, " has no tokenizer.json: give --prompt-ids instead of text"));
  }
  const std::string text = ReadPromptText(*options.prompt.text);
  if (text.empty()) {
    return absl::InvalidArgumentError("prompt: found no text, expected some");
  }
  TANDEM_ASSIGN_OR_RETURN(job.prompt_ids, tokenizer->Encode(text, /*add_special_tokens=*/true));
  return absl::OkStatus();
}

// Collective. The most tokens that prompt and answer can have together; 0: the model's limit. Rank
// 0 knows it, since it has the prompt.
absl::StatusOr<int64_t> AgreeOnContext(parallel::ControlGroup& communicator,
                                       const GenerateJob& job) {
  int64_t context = 0;
  if (communicator.rank() == 0 && job.sampling.max_tokens.has_value()) {
    context = static_cast<int64_t>(job.prompt_ids.size()) + std::max(1, *job.sampling.max_tokens);
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int64_t> all, AllGather(communicator, context));
  return all[0];
}

// Runs the job on rank 0 and ends the steps. Rank 0 gets the result.
rank::RankOutcome AnswerAndEndSteps(rank::JoinedWorld& joined, rank::RankRuntime& runtime,
                                    const GenerateJob& job, GenerateResult* answer) {
  parallel::MpiWorld* const world = joined.world.get();
  absl::StatusOr<GenerateResult> result = GenerateResult();
  if (joined.rank() == 0) {
    result = GenerateAnswer(runtime, job);
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
  *answer = *std::move(result);
  return rank::Done();
}

rank::RankOutcome Generate(rank::JoinedWorld& joined, const GenerateOptions& options) {
  parallel::MpiWorld* const world = joined.world.get();
  parallel::ControlGroup& communicator = *joined.communicator;
  GenerateJob job;
  job.sampling = options.sampling;
  job.json = options.json;
  job.logits_file = options.logits_file;
  job.speculation = RankOptionsOf(options.model).speculation;
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;
  const absl::Status read =
      joined.rank() == 0 ? ReadPrompt(options, job, tokenizer) : absl::OkStatus();
  if (const absl::Status agreed = AgreeOnStatus(communicator, read); !agreed.ok()) {
    return rank::ReportAgreedError(world, agreed);
  }
  const absl::StatusOr<int64_t> context = AgreeOnContext(communicator, job);
  if (!context.ok()) return rank::AbortWorld(world, context.status());
  rank::RankOptions rank_options = RankOptionsOf(options.model);
  rank_options.max_num_seqs = 1;
  rank_options.used_context = *context;
  auto loaded = rank::LoadRank(joined, rank_options, options.model.trace_file);
  if (!loaded.ok()) return rank::ReportAgreedError(world, loaded.status());

  GenerateResult answer;
  const rank::RankOutcome outcome = AnswerAndEndSteps(joined, *loaded->runtime, job, &answer);
  if (!outcome.done()) return outcome;
  const auto reports = loaded->runtime->GatherReports();
  if (!reports.ok()) return rank::AbortWorld(world, reports.status());
  if (absl::Status status = loaded->WriteTrace(communicator); !status.ok()) {
    return rank::AbortWorld(world, status);
  }
  if (joined.rank() == 0 && options.json) {
    if (absl::Status status = WriteStdout(GenerateJson(answer, *reports) + "\n"); !status.ok()) {
      return rank::ReportOwnError(status);
    }
  }
  return rank::Done();
}

int RunGenerateRank(const GenerateOptions& options) {
  return rank::RunRank({spdlog::level::warn, options.model.start_timeout},
                       [&](rank::JoinedWorld& joined) { return Generate(joined, options); });
}

}  // namespace

CLI::App* AddGenerate(CLI::App& parent, GenerateOptions* options) {
  CLI::App* app = parent.add_subcommand("generate", "Answer one prompt and exit");
  AddModelOptions(app, &options->model);
  AddSpeculate(app, &options->model, "auto");
  AddTrace(app, &options->model);
  AddPrompt(app, &options->prompt);
  AddSamplingOptions(app, &options->sampling);
  app->add_flag("--json", options->json, "Print one JSON object");
  app->add_option("--logits", options->logits_file,
                  "Write the logits of each sampled position to this file, raw float32");
  app->callback([options] {
    CheckModelOptions(options->model);
    CheckPrompt("generate", options->prompt);
  });
  return app;
}

absl::StatusOr<int> RunGenerate(const GenerateOptions& options, char** argv) {
  TANDEM_RETURN_IF_ERROR(CheckStdout("the answer has"));
  WorldOptions world;
  world.pass_stdin = options.prompt.text == "-";
  world.relay_stdout = true;
  return RunRankOrWorld({.tp = options.model.tp, .hosts = options.model.hosts, .world = world},
                        argv, [&] { return RunGenerateRank(options); });
}

}  // namespace tandem::launcher
