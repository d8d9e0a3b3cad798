#include "launcher/command/quantize.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/json.h"
#include "kernels/base/status_macros.h"
#include "kernels/base/text_file.h"
#include "kernels/cpu/cpu_backend.h"
#include "runtime/loader/hf_config.h"
#include "runtime/loader/model_folder.h"
#include "runtime/plan/memory_plan.h"
#include "runtime/quantize/quantize_model.h"
#include "runtime/rank/exit_code.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxConfigBytes = 4 << 20;
constexpr size_t kMaxSideFileBytes = 64 << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;
// Calibration text is cut into sequences of so many tokens.
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

// Sequences of the calibration text, as many as the option allows.
absl::StatusOr<std::vector<std::vector<int32_t>>> CalibrationOf(const QuantizeOptions& options,
                                                                const loader::ModelFolder& folder,
                                                                const loader::ModelConfig& config) {
  std::vector<std::vector<int32_t>> sequences;
  if (options.calibration.empty()) return sequences;
  if (!folder.Has("tokenizer.json")) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder.path(), " has no tokenizer.json, which --calibration needs"));
  }
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer,
                          tokenizer::Tokenizer::FromFile(folder.PathOf("tokenizer.json")));
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

// Everything but the weights and what describes them: tokenizer, template,
// generation_config.json, licence. What is as large as weights is left, with a line on stderr.
absl::Status CopySideFiles(const loader::ModelFolder& folder, const std::string& to) {
  static constexpr absl::string_view kWeights[] = {".safetensors", ".safetensors.index.json",
                                                   ".bin",         ".bin.index.json",
                                                   ".pt",          ".pth",
                                                   ".gguf",        ".onnx",
                                                   ".h5",          ".msgpack"};
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path(), error)) {
    const std::string name = entry.path().filename().string();
    const bool weights =
        std::any_of(std::begin(kWeights), std::end(kWeights),
                    [&](absl::string_view end) { return absl::EndsWith(name, end); });
    std::error_code ignored;
    if (weights || name == "config.json" || !loader::IsPlainFileName(name) ||
        !entry.is_regular_file(ignored)) {
      continue;
    }
    if (const auto size = entry.file_size(ignored); !ignored && size > kMaxSideFileBytes) {
      std::fprintf(stderr, "tandem: %s: found %ju bytes, expected at most %zu; it is not copied\n",
                   entry.path().c_str(), size, kMaxSideFileBytes);
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(const std::string bytes, folder.ReadSmallFile(name, kMaxSideFileBytes));
    TANDEM_RETURN_IF_ERROR(quantize::WriteFileDurably(to + "/" + name, bytes));
  }
  if (error) return absl::DataLossError(absl::StrCat(folder.path(), ": ", error.message()));
  return absl::OkStatus();
}

// Says how far it is, on a terminal only.
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

class OutputFolder {
 public:
  // OUT must not be there yet, nor what an earlier run left.
  static absl::StatusOr<std::unique_ptr<OutputFolder>> Create(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    const std::string partial = path + ".partial";
    for (const std::string& taken : {path, partial}) {
      struct stat info;
      if (lstat(taken.c_str(), &info) != 0) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          taken, ": found something there, expected nothing; remove it or name another OUT"));
    }
    if (mkdir(partial.c_str(), 0777) != 0) {
      return rank::OutputError(absl::StrCat(partial, ": cannot be made: ", std::strerror(errno)));
    }
    return std::unique_ptr<OutputFolder>(new OutputFolder(path, partial));
  }
  ~OutputFolder() {
    std::error_code ignored;
    if (!finished_) fs::remove_all(partial_, ignored);
  }

  const std::string& path() const { return partial_; }

  absl::Status Finish() {
    TANDEM_RETURN_IF_ERROR(quantize::SyncFolder(partial_));
    if (rename(partial_.c_str(), path_.c_str()) != 0) {
      return rank::OutputError(absl::StrCat(path_, ": cannot be made: ", std::strerror(errno)));
    }
    finished_ = true;
    const fs::path parent = fs::path(path_).parent_path();
    return quantize::SyncFolder(parent.empty() ? "." : parent.string());
  }

 private:
  OutputFolder(std::string path, std::string partial)
      : path_(std::move(path)), partial_(std::move(partial)) {}
  const std::string path_, partial_;
  bool finished_ = false;
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
  const std::string line =
      absl::StrFormat("%s: %.1f MiB of weights, %.3f of the source's %.1f MiB\n", options.output,
                      static_cast<double>(plan.bytes()) / (1 << 20),
                      static_cast<double>(plan.bytes()) / static_cast<double>(plan.source_bytes),
                      static_cast<double>(plan.source_bytes) / (1 << 20));
  if (std::fputs(line.c_str(), stdout) < 0 || std::fflush(stdout) != 0) {
    return rank::OutputError("stdout: cannot be written");
  }
  return absl::OkStatus();
}

}  // namespace

int RunQuantize(const QuantizeOptions& options) {
  const absl::Status status = Quantize(options);
  return status.ok() ? 0 : rank::ReportError(status);
}

}  // namespace tandem::launcher
