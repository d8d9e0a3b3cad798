#include "launcher/command/eval_front.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/engine/logits_hash.h"
#include "runtime/engine/step_plan.h"
#include "runtime/rank/exit_code.h"

namespace tandem::launcher {
namespace {

constexpr double kLn2 = 0.693147180559945309417;

bool AllFinite(std::span<const float> values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// One sequence's inputs [begin, end) of a window, from position begin - window.begin.
void FillPlan(const std::vector<int32_t>& ids, const engine::TextWindow& window, int64_t begin,
              int64_t end, engine::StepPlan& plan) {
  plan.Clear();
  const int64_t first = begin - window.begin;
  const int64_t count = end - begin;
  plan.token_ids.assign(ids.begin() + begin, ids.begin() + end);
  plan.positions.resize(count);
  std::iota(plan.positions.begin(), plan.positions.end(), static_cast<int32_t>(first));
  plan.slot_mapping = plan.positions;  // blocks lie in order
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

absl::StatusOr<LogitsFile> LogitsFile::Create(const std::string& path) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    return rank::OutputError(absl::StrCat(path, ": cannot be written: ", std::strerror(errno)));
  }
  return LogitsFile(path, fd);
}

absl::StatusOr<LogitsFile> LogitsFile::CreateTemporary() {
  const char* folder = std::getenv("TMPDIR");
  std::string path =
      absl::StrCat(folder != nullptr && *folder != '\0' ? folder : "/tmp", "/tandem_logits_XXXXXX");
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) {
    return rank::OutputError(absl::StrCat(path, ": cannot be written: ", std::strerror(errno)));
  }
  unlink(path.c_str());
  return LogitsFile(path, fd);
}

absl::StatusOr<LogitsFile> LogitsFile::Open(const std::string& path, int64_t rows, int64_t vocab) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
  LogitsFile file(path, fd);
  struct stat info;
  const int64_t expected = rows * vocab * static_cast<int64_t>(sizeof(float));
  if (fstat(fd, &info) != 0 || info.st_size != expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": size: found ", info.st_size, " bytes, expected ", expected, ", the logits of ",
        rows, " tokens over ", vocab, " ids; make it with the same text, --context and --stride"));
  }
  return file;
}

LogitsFile& LogitsFile::operator=(LogitsFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(fd_, other.fd_);
  std::swap(written_, other.written_);
  return *this;
}

LogitsFile::~LogitsFile() {
  if (fd_ >= 0) close(fd_);
}

absl::Status LogitsFile::Write(std::span<const float> logits) {
  const char* data = reinterpret_cast<const char*>(logits.data());
  size_t left = logits.size_bytes();
  while (left > 0) {
    const ssize_t count = pwrite(fd_, data, left, static_cast<off_t>(written_));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      return rank::OutputError(absl::StrCat(path_, ": writing failed: ", std::strerror(errno)));
    }
    data += count;
    left -= static_cast<size_t>(count);
    written_ += static_cast<uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status LogitsFile::Read(int64_t row, std::span<float> logits) const {
  char* data = reinterpret_cast<char*>(logits.data());
  size_t left = logits.size_bytes();
  uint64_t offset = static_cast<uint64_t>(row) * logits.size_bytes();
  while (left > 0) {
    const ssize_t count = pread(fd_, data, left, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return absl::DataLossError(absl::StrCat(path_, ": reading failed"));
    data += count;
    left -= static_cast<size_t>(count);
    offset += static_cast<uint64_t>(count);
  }
  if (!AllFinite(logits)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": row ", row,
                     ": found a logit that is no number, expected finite ones; write the reference "
                     "again with --logits"));
  }
  return absl::OkStatus();
}

absl::Status LogitsFile::Finish() {
  if (fsync(fd_) == 0 || errno == EINVAL) return absl::OkStatus();  // EINVAL: a pipe, a device
  return rank::OutputError(absl::StrCat(path_, ": writing failed: ", std::strerror(errno)));
}

absl::StatusOr<EvalResult> RunEval(rank::RankRuntime& runtime, const EvalJob& job,
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
        if (!AllFinite(row)) {
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

namespace {

double BitsPerByte(const EvalResult& result, const EvalJob& job) {
  return result.loss.mean_nll() * static_cast<double>(result.loss.positions()) / kLn2 /
         static_cast<double>(job.text.bytes);
}

}  // namespace

std::string EvalJson(const EvalResult& result, const EvalJob& job) {
  nlohmann::ordered_json json;
  json["tokens"] = result.loss.positions();
  json["bytes"] = job.text.bytes;
  json["context"] = job.context;
  json["stride"] = job.stride;
  json["nll"] = result.loss.mean_nll();
  json["perplexity"] = result.loss.perplexity();
  json["bits_per_byte"] = BitsPerByte(result, job);
  if (result.has_reference) {
    json["reference"] = {{"perplexity", result.loss.reference_perplexity()},
                         {"kl_divergence", result.loss.mean_divergence()},
                         {"kl_divergence_p99", result.loss.divergence_quantile(0.99)},
                         {"same_top_token", result.loss.same_top_share()}};
  }
  json["logits_hash"] = absl::StrFormat("%016x", result.logits_hash);
  json["seconds"] = result.seconds;
  return json.dump();
}

std::string EvalTable(const EvalResult& result, const EvalJob& job) {
  std::string text = absl::StrFormat(
      "%-22s %d (%d bytes), windows of %d, stride %d\n%-22s %.5f\n%-22s %.5f\n", "predicted tokens",
      result.loss.positions(), job.text.bytes, job.context, job.stride, "perplexity",
      result.loss.perplexity(), "bits a byte", BitsPerByte(result, job));
  if (result.has_reference) {
    absl::StrAppendFormat(&text, "%-22s %.5f\n%-22s %.3e nats, 99 %% below %.3e\n%-22s %.3f %%\n",
                          "reference perplexity", result.loss.reference_perplexity(),
                          "KL divergence", result.loss.mean_divergence(),
                          result.loss.divergence_quantile(0.99), "same top token",
                          100 * result.loss.same_top_share());
  }
  return text;
}

}  // namespace tandem::launcher
