#include "launcher/command/quantize.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/json.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "launcher/command/model_options.h"
#include "launcher/command/option_checks.h"
#include "launcher/command/output.h"
#include "launcher/command/quantize_output.h"
#include "runtime/loader/hf_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/plan/host_limits.h"
#include "runtime/quantize/quantize_model.h"
#include "runtime/rank/exit_code.h"
#include "runtime/server/model_tokenizer.h"

namespace tandem::launcher {
namespace {

constexpr size_t kMaxConfigBytes = 4 << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;
// Tokens of each sequence that the calibration text is cut into.
constexpr int64_t kCalibrationLength = 512;

absl::Status Expected(const std::string& option, const std::string& found,
                      const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": found '", found, "', expected ", expected));
}

struct Settings {
  quantize::QuantizeFormat format;
  quantize::QuantizeMethod method = quantize::QuantizeMethod::kSearch;
};

absl::StatusOr<Settings> SettingsOf(const QuantizeOptions& options) {
  Settings settings;
  settings.format.group_size = options.group_size;
  settings.format.zero_points = options.zero_points;
  if (options.dtype == "int8") {
    settings.format.bits = 8;
  } else if (options.dtype != "int4") {
    return Expected("--dtype", options.dtype, "int8 or int4");
  }
  if (settings.format.bits == 8 && options.zero_points) {
    return absl::InvalidArgumentError("--zero-points: found them with --dtype int8, expected int4");
  }
  if (options.head_dtype == "stored") {
    settings.format.head_bits.reset();
  } else if (options.head_dtype == "int4") {
    settings.format.head_bits = 4;
  } else if (options.head_dtype != "int8") {
    return Expected("--head-dtype", options.head_dtype, "int8, int4 or stored");
  }
  const bool calibrated = !options.calibration.empty();
  const std::string method =
      options.method.empty() ? calibrated ? "gptq" : "search" : options.method;
  if (method == "rtn") {
    settings.method = quantize::QuantizeMethod::kRtn;
  } else if (method == "gptq") {
    settings.method = quantize::QuantizeMethod::kGptq;
  } else if (method != "search") {
    return Expected("--method", options.method, "rtn, search or gptq");
  }
  if (method == "gptq" && !calibrated) {
    return absl::InvalidArgumentError("--method gptq: found no --calibration, expected a text");
  }
  if (method == "rtn" && calibrated) {
    return absl::InvalidArgumentError(
        "--calibration: found it with --method rtn, expected search or gptq");
  }
  return settings;
}

// Sequences of the calibration text, up to --calibration-tokens.
absl::StatusOr<std::vector<std::vector<int32_t>>> CalibrationOf(const QuantizeOptions& options,
                                                                const loader::ModelFolder& folder,
                                                                const loader::ModelConfig& config) {
  std::vector<std::vector<int32_t>> sequences;
  if (options.calibration.empty()) return sequences;
  if (!folder.Has("tokenizer.json")) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder.path(), " has no tokenizer.json, which --calibration needs"));
  }
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, server::LoadTokenizer(folder));
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.calibration, kMaxTextBytes));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          tokenizer->Encode(text, /*add_special_tokens=*/true));
  const size_t length =
      static_cast<size_t>(std::min(kCalibrationLength, config.max_position_embeddings));
  const size_t most = std::min(ids.size(), static_cast<size_t>(options.calibration_tokens));
  for (size_t begin = 0; begin < most; begin += length) {
    const size_t end = std::min(begin + length, most);
    sequences.emplace_back(ids.begin() + static_cast<std::ptrdiff_t>(begin),
                           ids.begin() + static_cast<std::ptrdiff_t>(end));
    for (const int32_t id : sequences.back()) {
      if (id >= 0 && id < config.vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat(options.calibration, ": found the token ", id,
                                                     ", expected one below ", config.vocab_size,
                                                     "; tokenizer.json is of another model"));
    }
  }
  if (sequences.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.calibration, ": found no token, expected a text"));
  }
  return sequences;
}

// Shows progress on stderr, if that is a terminal.
class Progress {
 public:
  explicit Progress(uint64_t total) : total_(total), shown_(isatty(STDERR_FILENO) != 0) {}
  ~Progress() {
    if (shown_ && written_) std::fputs("\r\033[K", stderr);
  }
  void operator()(uint64_t done) {
    if (!shown_) return;
    written_ = true;
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const double share =
        static_cast<double>(done) / static_cast<double>(std::max<uint64_t>(1, total_));
    std::fprintf(stderr, "\r%3.0f %%, %.0f s, about %.0f s to go\033[K", share * 100, seconds,
                 share > 0 ? seconds * (1 - share) / share : 0.0);
  }

 private:
  const uint64_t total_;
  const bool shown_;
  bool written_ = false;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

absl::Status Quantize(const QuantizeOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const Settings settings, SettingsOf(options));
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelFolder folder,
                          loader::ModelFolder::Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(const std::string config_text,
                          folder.ReadSmallFile("config.json", kMaxConfigBytes));
  TANDEM_ASSIGN_OR_RETURN(nlohmann::json config_json,
                          json::Parse(config_text, folder.PathOf("config.json")));
  if (config_json.is_object() && config_json.contains("quantization_config")) {
    return absl::FailedPreconditionError(absl::StrCat(folder.PathOf("config.json"),
                                                      ": quantization_config: found one, expected "
                                                      "none; quantize the original model"));
  }
  TANDEM_ASSIGN_OR_RETURN(const loader::ModelConfig config, loader::ReadConfig(folder));
  TANDEM_ASSIGN_OR_RETURN(const auto checkpoint, loader::Checkpoint::Open(folder));
  TANDEM_ASSIGN_OR_RETURN(const quantize::QuantizePlan plan,
                          quantize::PlanQuantization(config, *checkpoint, settings.format));
  TANDEM_ASSIGN_OR_RETURN(const auto calibration, CalibrationOf(options, folder, config));

  const int threads = options.threads > 0 ? options.threads : plan::AvailableCpus();
  TANDEM_ASSIGN_OR_RETURN(const auto backend,
                          kernels::MakeCpuBackend("auto", {.threads = threads}));
  kernels::ThreadPool pool(threads);

  TANDEM_ASSIGN_OR_RETURN(const auto output, OutputFolder::Create(options.output));
  TANDEM_ASSIGN_OR_RETURN(const auto writer,
                          quantize::CheckpointWriter::Create(output->path(), plan.tensors));
  config_json["quantization_config"] = plan.config;
  TANDEM_RETURN_IF_ERROR(
      quantize::WriteFileDurably(output->path() + "/config.json", config_json.dump(2) + "\n"));
  TANDEM_RETURN_IF_ERROR(CopySideFiles(folder, output->path()));
  {
    Progress progress(plan.source_bytes);
    TANDEM_RETURN_IF_ERROR(
        quantize::QuantizeModel({.config = config,
                                 .checkpoint = *checkpoint,
                                 .plan = plan,
                                 .method = settings.method,
                                 .calibration = calibration,
                                 .backend = *backend,
                                 .pool = pool,
                                 .progress = [&](uint64_t done) { progress(done); }},
                                *writer));
  }
  TANDEM_RETURN_IF_ERROR(writer->Close());
  TANDEM_RETURN_IF_ERROR(output->Finish());
  return WriteStdout(
      absl::StrFormat("%s: %.1f MiB of weights, %.3f of the source's %.1f MiB\n", options.output,
                      static_cast<double>(plan.bytes()) / (1 << 20),
                      static_cast<double>(plan.bytes()) / static_cast<double>(plan.source_bytes),
                      static_cast<double>(plan.source_bytes) / (1 << 20)));
}

}  // namespace

CLI::App* AddQuantize(CLI::App& parent, QuantizeOptions* options) {
  CLI::App* app =
      parent.add_subcommand("quantize", "Write a copy of a model with weights of fewer bits");
  AddModel(app, &options->model);
  app->add_option("OUT", options->output, "Folder to create")->required();
  app->add_option("--dtype", options->dtype, "Weight format: int8 or int4")->capture_default_str();
  app->add_option("--group-size", options->group_size, "Columns that share a scale")
      ->check(CLI::Range(int64_t{8}, int64_t{1024}))
      ->capture_default_str();
  app->add_flag("--zero-points,!--symmetric", options->zero_points,
                "Use a zero point per group, or none (the default)");
  app->add_option("--head-dtype", options->head_dtype,
                  "Format of output head and embedding: int8, int4, or stored (unchanged)")
      ->capture_default_str();
  app->add_option("--method", options->method,
                  "rtn (round to nearest), search (for the best scales), gptq (error "
                  "compensation); default: gptq with --calibration, else search");
  app->add_option("--calibration", options->calibration,
                  "Text file for calibration, similar to what the model will read");
  app->add_option("--calibration-tokens", options->calibration_tokens,
                  "Maximum number of calibration tokens")
      ->check(CLI::Range(int64_t{1}, kMaxCount))
      ->capture_default_str();
  app->add_option("--threads", options->threads, "Threads (default: all cores)")
      ->check(CLI::Range(1, 4096));
  return app;
}

absl::StatusOr<int> RunQuantize(const QuantizeOptions& options, char** /*argv*/) {
  TANDEM_RETURN_IF_ERROR(Quantize(options));
  return 0;
}

}  // namespace tandem::launcher
