#include "launcher/command/generate_front.h"

#include <cstdio>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "runtime/engine/engine.h"
#include "runtime/rank/engine_setup.h"
#include "runtime/rank/exit_code.h"
#include "runtime/server/choice_answer.h"
#include "runtime/server/validation.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::launcher {
namespace {

// Executes plans, and writes the logits of the sampled positions to a file.
class LogitsRecorder : public engine::StepExecutor {
 public:
  LogitsRecorder(engine::StepExecutor& inner, std::ofstream* file) : inner_(inner), file_(file) {}

  absl::Status Execute(const engine::StepPlan& plan, std::span<float> logits) override {
    TANDEM_RETURN_IF_ERROR(inner_.Execute(plan, logits));
    if (file_ != nullptr && !plan.logits_indices.empty()) {
      file_->write(reinterpret_cast<const char*>(logits.data()),
                   static_cast<std::streamsize>(logits.size_bytes()));
    }
    return absl::OkStatus();
  }
  engine::RowSurveys* surveys() override { return file_ == nullptr ? inner_.surveys() : nullptr; }

 private:
  engine::StepExecutor& inner_;
  std::ofstream* file_;
};

}  // namespace

absl::StatusOr<GenerateResult> GenerateAnswer(rank::RankRuntime& runtime, const GenerateJob& job) {
  const engine::EngineLimits limits = {
      .vocab_size = static_cast<int32_t>(runtime.config().vocab_size),
      .max_model_len = static_cast<int32_t>(runtime.max_model_len()),
      .max_queue = 1};
  TANDEM_RETURN_IF_ERROR(server::CheckPrompt(job.prompt_ids, limits));
  engine::Request request;
  request.prompt_ids = job.prompt_ids;
  TANDEM_ASSIGN_OR_RETURN(
      request.sampling,
      server::MakeSampling(job.sampling, server::DefaultsOf(runtime.generation()), limits,
                           static_cast<int64_t>(job.prompt_ids.size()), server::FreshSeed()));
  request.sampling.logits_hash = true;

  std::ofstream logits_file;
  if (!job.logits_file.empty()) {
    logits_file.open(job.logits_file, std::ios::binary | std::ios::trunc);
    if (!logits_file) {
      return absl::InvalidArgumentError(
          absl::StrCat("--logits ", job.logits_file, ": cannot be written"));
    }
  }
  LogitsRecorder recorder(runtime.runner(), logits_file.is_open() ? &logits_file : nullptr);
  engine::EngineConfig config = rank::EngineConfigOf(runtime);
  config.max_num_seqs = 1;
  // The file has the rows of sampled positions alone.
  if (job.logits_file.empty()) config.speculation = job.speculation;
  TANDEM_ASSIGN_OR_RETURN(const auto engine,
                          engine::Engine::Create(config, &recorder, {.timer = runtime.timer()}));

  GenerateResult result;
  if (job.tokenizer == nullptr && !job.sampling.stop.empty()) {
    return absl::FailedPreconditionError("--stop: the model has no tokenizer.json");
  }
  server::ChoiceAnswer answer(job.tokenizer, server::StopTextsOf(job.sampling));
  std::promise<absl::Status> done;
  bool written = true;  // to stdout
  const auto print = [&](const std::string& text) {
    result.text += text;
    if (!job.json) {
      written = written && std::fwrite(text.data(), 1, text.size(), stdout) == text.size() &&
                std::fflush(stdout) == 0;
    }
  };
  const auto sink = [&](const engine::Event& event) {
    result.token_ids.insert(result.token_ids.end(), event.token_ids.begin(), event.token_ids.end());
    std::string shown;
    const bool goes_on = answer.Add(event, &shown);
    if (!shown.empty()) print(shown);
    if (goes_on) return true;
    result.finish_reason = server::FinishReasonName(answer.finish());
    result.prompt_tokens = event.prompt_tokens;
    result.cached_prompt_tokens = event.cached_prompt_tokens;
    result.draft_tokens = event.draft_tokens;
    result.accepted_draft_tokens = event.accepted_draft_tokens;
    result.queue_seconds = event.timings.queue_seconds;
    result.prefill_seconds = event.timings.prefill_seconds;
    result.decode_seconds = event.timings.decode_seconds;
    result.logits_hash = event.logits_hash;
    done.set_value(event.status);
    return false;
  };
  engine->Start();
  TANDEM_RETURN_IF_ERROR(engine->Submit(std::move(request), sink).status());
  const absl::Status status = done.get_future().get();
  engine->Stop();
  TANDEM_RETURN_IF_ERROR(status);
  if (!job.json) {
    if (job.tokenizer == nullptr) {
      for (const int32_t id : result.token_ids) std::printf("%d ", id);
    }
    written = std::printf("\n") > 0 && std::fflush(stdout) == 0 && written;
  }
  if (!written) return rank::OutputError("stdout: cannot be written");
  if (logits_file.is_open() && !logits_file.flush()) {
    return rank::OutputError(absl::StrCat("--logits ", job.logits_file, ": writing failed"));
  }
  return result;
}

std::string GenerateJson(const GenerateResult& result, const std::vector<rank::RankReport>& ranks) {
  nlohmann::ordered_json json;
  json["token_ids"] = result.token_ids;
  json["text"] = result.text;
  json["finish_reason"] = result.finish_reason;
  json["usage"] = {{"prompt_tokens", result.prompt_tokens},
                   {"completion_tokens", result.token_ids.size()},
                   {"total_tokens", result.prompt_tokens + result.token_ids.size()},
                   {"cached_prompt_tokens", result.cached_prompt_tokens},
                   {"draft_tokens", result.draft_tokens},
                   {"accepted_draft_tokens", result.accepted_draft_tokens}};
  json["timings"] = {{"queue_seconds", result.queue_seconds},
                     {"prefill_seconds", result.prefill_seconds},
                     {"decode_seconds", result.decode_seconds}};
  json["logits_hash"] = absl::StrFormat("%016x", result.logits_hash);
  json["ranks"] = nlohmann::ordered_json::array();
  for (const rank::RankReport& rank : ranks) {
    json["ranks"].push_back({{"bytes_read", rank.bytes_read},
                             {"planned_bytes", rank.planned_bytes},
                             {"peak_memory", rank.peak_memory}});
    if (rank.planned_gpu > 0) {
      json["ranks"].back()["planned_gpu"] = rank.planned_gpu;
      json["ranks"].back()["gpu_memory"] = rank.gpu_memory;
    }
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace tandem::launcher
