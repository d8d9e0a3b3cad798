// A batch job on rank 0 before any weight is read: input checked, journal open, files brought to
// what it says. What it finds wrong needs no model to be found.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/timeouts.h"
#include "runtime/batch/coordinator.h"
#include "runtime/batch/file.h"
#include "runtime/batch/journal.h"
#include "runtime/batch/options.h"
#include "runtime/batch/row.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::batch {

// Between two signs of life.
inline constexpr std::chrono::seconds kHeartbeat{5};

// What rows are read with; a replica's leader needs the same.
struct BatchModel {
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;  // null: ids only
  std::optional<chat::ChatTemplate> chat_template;
  RowReader reader;  // of both
  JournalHeader header;
};
absl::StatusOr<std::unique_ptr<BatchModel>> OpenBatchModel(const JobOptions& options);

struct BatchJob {
  std::unique_ptr<BatchJournal> journal;
  std::unique_ptr<ResultFile> results, errors;
  std::unique_ptr<BatchCoordinator> coordinator;
  int64_t context = 0;  // tokens of the longest row that is left, answer included
};

// INVALID_ARGUMENT for bad rows (each told on stderr, with its line) unless they are to be skipped,
// and for an id that appears twice or a file that is named twice; else as BatchJournal and
// BatchCoordinator say.
absl::StatusOr<std::unique_ptr<BatchJob>> OpenBatchJob(const JobOptions& options,
                                                       const BatchModel& model);

}  // namespace tandem::batch
