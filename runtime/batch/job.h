// Opens a batch job before any weight is read: checks the input, opens the journal, and brings the
// files to what the journal says. All mistakes that can be found without loading are found here.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/batch/coordinator.h"
#include "runtime/batch/file.h"
#include "runtime/batch/journal.h"
#include "runtime/batch/options.h"
#include "runtime/batch/row.h"
#include "runtime/text/chat/chat_template.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::batch {

// What rows are read with, on the coordinator and on rank 0 of each replica.
struct BatchModel {
  std::unique_ptr<tokenizer::Tokenizer> tokenizer;  // null: ids only
  std::optional<chat::ChatTemplate> chat_template;
  RowReader reader;  // uses both
  JournalHeader header;
};
absl::StatusOr<std::unique_ptr<BatchModel>> OpenBatchModel(const JobOptions& options);

struct BatchJob {
  std::unique_ptr<BatchJournal> journal;
  std::unique_ptr<ResultFile> results, errors;
  std::unique_ptr<BatchCoordinator> coordinator;
  int64_t context = 0;  // tokens of the longest row that is left, answer included
  PromptTime time;      // of all prompts
};

// INVALID_ARGUMENT for bad rows (printed on stderr with their lines) unless they are to be skipped,
// and for an id that appears twice or a file that is named twice. Otherwise the errors of
// BatchJournal and BatchCoordinator.
absl::StatusOr<std::unique_ptr<BatchJob>> OpenBatchJob(const JobOptions& options,
                                                       const BatchModel& model);

}  // namespace tandem::batch
