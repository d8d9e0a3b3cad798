// `tandem eval` on rank 0: a text through the model in windows, its perplexity, and
// how far the logits are from a reference's.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/text_loss.h"
#include "runtime/rank/rank_runtime.h"

namespace tandem::launcher {

// Input tokens of one step: with logits for each, the largest thing in memory
// beside the weights.
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

// fp32 logits [predicted tokens, vocab], in order: what --logits writes and
// --reference-logits reads.
class LogitsFile {
 public:
  static absl::StatusOr<LogitsFile> Create(const std::string& path);
  // A file of its own that is gone when the object is. `folder` is $TMPDIR or /tmp.
  static absl::StatusOr<LogitsFile> CreateTemporary();
  // Must hold exactly `rows` of `vocab`.
  static absl::StatusOr<LogitsFile> Open(const std::string& path, int64_t rows, int64_t vocab);
  LogitsFile(LogitsFile&& other) noexcept { *this = std::move(other); }
  LogitsFile& operator=(LogitsFile&& other) noexcept;
  ~LogitsFile();

  absl::Status Write(std::span<const float> logits);
  // INVALID_ARGUMENT where one of them is not finite.
  absl::Status Read(int64_t row, std::span<float> logits) const;
  absl::Status Finish();  // after the last Write

 private:
  LogitsFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  std::string path_;
  int fd_ = -1;
  uint64_t written_ = 0;
};

struct EvalResult {
  engine::TextLoss loss;
  bool has_reference = false;
  uint64_t logits_hash = 0;  // XXH64 of all that --logits would write
  double seconds = 0;
};

// On rank 0 of a loaded world, whose vocabulary has the text's ids. Either file may be null.
absl::StatusOr<EvalResult> RunEval(rank::RankRuntime& runtime, const EvalJob& job,
                                   const LogitsFile* reference, LogitsFile* logits);

std::string EvalJson(const EvalResult& result, const EvalJob& job);
std::string EvalTable(const EvalResult& result, const EvalJob& job);

}  // namespace tandem::launcher
