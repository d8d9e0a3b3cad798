#include "runtime/batch/job.h"

#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "runtime/batch/input.h"
#include "runtime/batch/result.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/generation_config.h"
#include "runtime/loader/hf_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/model/model_tensors.h"
#include "runtime/server/model_tokenizer.h"
#include "runtime/server/sampling_proto.h"
#include "runtime/server/validation.h"
#include "runtime/text/chat/chat_template_file.h"

namespace tandem::batch {
namespace {

// The ranks of a job that was killed take a moment to end.
constexpr std::chrono::seconds kLockWait{10};
constexpr int kBadRowsShown = 20;
constexpr size_t kMaxTokenizerBytes = size_t{1} << 30;
constexpr int32_t kMaxQueue = 1 << 20;
constexpr char kTimeName[] = "time";  // in the journal's header

std::string Digest(const std::string& text) {
  return absl::StrFormat("%016x", XXH3_64bits(text.data(), text.size()));
}

std::string JournalOf(const JobOptions& options) {
  return absl::StrCat(options.output, ".journal");
}
std::string ErrorsOf(const JobOptions& options) {
  return options.errors.empty() ? absl::StrCat(options.output, ".errors") : options.errors;
}

// Digest of a file of the model; "none" where it is not there.
absl::StatusOr<std::string> FileDigest(const loader::ModelFolder& folder, const char* name) {
  if (!folder.Has(name)) return std::string("none");
  TANDEM_ASSIGN_OR_RETURN(const std::string text, folder.ReadSmallFile(name, kMaxTokenizerBytes));
  return Digest(text);
}

bool SameFile(const std::filesystem::path& a, const std::filesystem::path& b) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (fs::exists(a, error) && !fs::is_regular_file(a, error)) return false;  // such as /dev/null
  if (fs::equivalent(a, b, error)) return true;
  // One of them may not exist yet.
  const fs::path first = fs::weakly_canonical(a, error);
  if (error) return false;
  const fs::path second = fs::weakly_canonical(b, error);
  return !error && first == second;
}

// Two writers of one file would overwrite each other, and results would overwrite their input.
absl::Status CheckFilesDiffer(const JobOptions& options) {
  std::vector<std::pair<std::string, std::string>> files = {
      {"--output", options.output},
      {"the journal of --output", JournalOf(options)},
      {"--errors", ErrorsOf(options)}};
  if (options.input != "-") files.emplace_back("--input", options.input);
  for (size_t a = 0; a < files.size(); ++a) {
    for (size_t b = a + 1; b < files.size(); ++b) {
      if (!SameFile(files[a].second, files[b].second)) continue;
      return absl::InvalidArgumentError(absl::StrCat(files[b].first, ": found ", files[b].second,
                                                     ", which is the file of ", files[a].first,
                                                     ", expected another file"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchModel>> OpenBatchModel(const JobOptions& options) {
  auto model = std::make_unique<BatchModel>();
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder,
                          loader::ModelFolder::Open(options.rank.model));
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelConfig config, loader::ReadConfig(folder));
  TANDEM_ASSIGN_OR_RETURN(const loader::GenerationConfig generation,
                          loader::ReadGenerationConfig(folder));
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<loader::Checkpoint> checkpoint,
                          loader::Checkpoint::Open(folder));
  TANDEM_ASSIGN_OR_RETURN(model->tokenizer, server::LoadTokenizer(folder));
  absl::StatusOr<chat::ChatTemplate> chat_template = chat::LoadChatTemplate(options.rank.model);
  if (chat_template.ok()) {
    model->chat_template = *std::move(chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }

  RowReader& reader = model->reader;
  reader.tokenizer = model->tokenizer.get();
  reader.chat_template = model->chat_template.has_value() ? &*model->chat_template : nullptr;
  reader.defaults = options.sampling;
  reader.defaults.seed.reset();
  reader.seed = static_cast<uint64_t>(options.sampling.seed.value_or(0));
  reader.model_defaults = server::DefaultsOf(generation);
  reader.limits.vocab_size = static_cast<int32_t>(config.vocab_size);
  const int64_t context = config.max_position_embeddings;
  if (options.rank.max_model_len > context) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-model-len: found ", options.rank.max_model_len, ", expected at most ",
                     context, ", the model's max_position_embeddings"));
  }
  reader.limits.max_model_len =
      static_cast<int32_t>(options.rank.max_model_len > 0 ? options.rank.max_model_len : context);
  reader.limits.max_queue = kMaxQueue;

  // What an answer depends on beside its row. It does not depend on ranks, threads or replicas.
  TANDEM_ASSIGN_OR_RETURN(const std::string tokenizer, FileDigest(folder, "tokenizer.json"));
  TANDEM_ASSIGN_OR_RETURN(const std::string settings, FileDigest(folder, "tokenizer_config.json"));
  TANDEM_ASSIGN_OR_RETURN(const std::string jinja, FileDigest(folder, "chat_template.jinja"));
  TANDEM_ASSIGN_OR_RETURN(const std::string suggested,
                          FileDigest(folder, "generation_config.json"));
  TANDEM_ASSIGN_OR_RETURN(const std::optional<std::string> tool_use,
                          chat::ReadToolUseTemplate(folder));
  model->header = {{"model", absl::StrFormat("%016x", checkpoint->Identity())},
                   {"tokenizer", absl::StrCat(tokenizer, " ", settings, " ", jinja)},
                   {"generation_config", suggested},
                   {"dtype", options.rank.dtype},
                   {"group-size", absl::StrCat(options.rank.group_size)},
                   {"head-dtype", options.rank.head_dtype},
                   {"kv-dtype", options.rank.kv_dtype},
                   {"max-model-len", absl::StrCat(reader.limits.max_model_len)},
                   {"sampling", server::SamplingToProto(reader.defaults).ShortDebugString()},
                   {"seed", absl::StrCat(reader.seed)},
                   {"ordered", options.ordered ? "yes" : "no"}};
  // Named only where it applies, so that the journals of other jobs stay as they are.
  if (model->chat_template.has_value() && model->chat_template->uses_time()) {
    // A job that is resumed goes on with the date that it began with.
    if (const auto began = BatchJournal::HeaderValue(JournalOf(options), kTimeName)) {
      TANDEM_ASSIGN_OR_RETURN(reader.time, PromptTime::FromText(*began));
    }
    model->header.emplace_back(kTimeName, reader.time.ToText());
  }
  if (tool_use.has_value()) model->header.emplace_back("tool-use-template", Digest(*tool_use));
  if (options.rank.device != "cpu") {
    model->header.emplace_back("device", options.rank.device);
    model->header.emplace_back("deterministic", options.rank.deterministic ? "yes" : "no");
  }
  return model;
}

absl::StatusOr<std::unique_ptr<BatchJob>> OpenBatchJob(const JobOptions& options,
                                                       const BatchModel& model) {
  TANDEM_RETURN_IF_ERROR(CheckFilesDiffer(options));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<InputLine> lines, ReadLines(options.input));
  const std::string input = options.input == "-" ? "standard input" : options.input;
  std::vector<BatchRow> rows;
  std::vector<BatchCoordinator::BadRow> bad;
  std::unordered_map<std::string, int64_t> line_of_id;
  for (const InputLine& line : lines) {
    std::string id;
    absl::StatusOr<BatchRow> row = model.reader.Read(line.text, line.number, &id);
    if (!id.empty()) {
      const auto [first, is_new] = line_of_id.emplace(id, line.number);
      if (!is_new) {
        return absl::InvalidArgumentError(
            absl::StrCat("--input ", input, ": line ", line.number, ": found the id ", id,
                         " of line ", first->second, " again, expected each once"));
      }
    }
    if (row.ok()) {
      rows.push_back(*std::move(row));
      continue;
    }
    if (bad.size() < kBadRowsShown) {
      std::fprintf(stderr, "tandem: --input %s: line %lld: %s\n", input.c_str(),
                   static_cast<long long>(line.number),
                   std::string(row.status().message()).c_str());
    }
    const bool openai = line.text.find("\"custom_id\"") != std::string::npos;
    bad.push_back({.key = RowKey(line.text),
                   .id = id,
                   .line = ErrorLine(id, openai, line.number, row.status())});
  }
  if (!bad.empty() && options.on_error == "stop") {
    return absl::InvalidArgumentError(
        absl::StrCat("--input ", input, ": found ", bad.size(), bad.size() == 1 ? " row" : " rows",
                     " that cannot be run, expected none; mend them, or give --on-error skip"));
  }
  auto job = std::make_unique<BatchJob>();
  job->time = model.reader.time;
  TANDEM_ASSIGN_OR_RETURN(job->journal,
                          BatchJournal::Open(JournalOf(options), model.header, kLockWait));
  job->results = std::make_unique<ResultFile>(options.output, kLockWait);
  job->errors = std::make_unique<ResultFile>(ErrorsOf(options), kLockWait);
  for (const BatchRow& row : rows) {
    job->context = std::max<int64_t>(
        job->context, static_cast<int64_t>(row.prompt_ids.size()) + row.params.max_tokens);
  }
  job->coordinator = std::make_unique<BatchCoordinator>(
      std::move(rows), *job->journal, *job->results, *job->errors, options.ordered);
  TANDEM_RETURN_IF_ERROR(job->coordinator->Restore(bad));
  TANDEM_RETURN_IF_ERROR(job->coordinator->Flush(/*with_tokens=*/false));
  return job;
}

}  // namespace tandem::batch
