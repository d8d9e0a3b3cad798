#include "runtime/batch/coordinator.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/json.h"
#include "kernels/base/status_macros.h"

namespace tandem::batch {
namespace {

int64_t LengthAtMost(const BatchRow& row) {
  return static_cast<int64_t>(row.prompt_ids.size()) + row.params.max_tokens;
}

// The id of a line of results or errors, as JSON; empty where it has none.
std::string IdOfLine(absl::string_view line) {
  const auto parsed = json::Parse(std::string_view(line.data(), line.size()), "line");
  if (!parsed.ok() || !parsed->is_object()) return "";
  for (const char* name : {"custom_id", "id"}) {
    if (const auto id = parsed->find(name); id != parsed->end()) return id->dump();
  }
  return "";
}

}  // namespace

BatchCoordinator::BatchCoordinator(std::vector<BatchRow> rows, BatchJournal& journal,
                                   ResultFile& results, ResultFile& errors, bool ordered)
    : rows_(std::move(rows)),
      journal_(journal),
      results_(results),
      errors_(errors),
      ordered_(ordered),
      states_(rows_.size()) {
  for (size_t i = 0; i < rows_.size(); ++i) {
    by_key_.emplace(rows_[i].key, i);
    states_[i].tokens.resize(rows_[i].choices);
    states_[i].journaled.resize(rows_[i].choices);
  }
  counts_.rows = static_cast<int64_t>(rows_.size());
}

absl::Status BatchCoordinator::Restore(const std::vector<BadRow>& bad) {
  std::lock_guard lock(mutex_);
  std::map<std::string, size_t> by_id;
  for (size_t i = 0; i < rows_.size(); ++i) by_id.emplace(rows_[i].id, i);
  std::set<uint64_t> failed_before;
  std::string lines, error_lines;
  for (const BatchJournal::Done& done : journal_.done()) {
    if (done.failed) {
      failed_before.insert(done.key);
      absl::StrAppend(&error_lines, done.line, "\n");
    } else if (!ordered_) {
      absl::StrAppend(&lines, done.line, "\n");
    }
    const auto row = by_key_.find(done.key);
    if (row == by_key_.end()) {
      const auto same_id = by_id.find(done.id);
      if (done.failed) continue;                          // the row may have been corrected since
      if (same_id == by_id.end() && !ordered_) continue;  // it has left the input
      return absl::FailedPreconditionError(absl::StrCat(
          "row ", done.id,
          same_id == by_id.end() ? "" : absl::StrCat(" (line ", rows_[same_id->second].line, ")"),
          ": found another text than the one that results are there for; give another --output, or "
          "the row as it was"));
    }
    State& state = states_[row->second];
    if (state.finished) continue;
    state.finished = state.committed = true;
    ++counts_.before;
    if (done.failed) ++counts_.failed;
    if (ordered_ && !done.failed) state.line = done.line;
  }
  // Ordered results after a row that was added or corrected since are written again behind it.
  ResultFile::Later later, later_errors;
  if (ordered_) {
    lines = TakeReady();
    for (const BatchJournal::Done& done : journal_.done()) {
      if (!done.failed) later.lines.insert(done.line);
    }
  }
  if (journal_.lost_tail()) {
    // Rows whose records were damaged are made again, with the same text.
    later.made_again = later_errors.made_again = [&](absl::string_view line) {
      const auto row = by_id.find(IdOfLine(line));
      return row != by_id.end() && !states_[row->second].finished;
    };
  }
  TANDEM_RETURN_IF_ERROR(results_.Restore(lines, later));
  TANDEM_RETURN_IF_ERROR(errors_.Restore(error_lines, later_errors));
  journal_.done().clear();

  for (const auto& [place, tokens] : journal_.progress()) {
    const auto row = by_key_.find(place.first);
    if (row == by_key_.end() || place.second >= rows_[row->second].choices) continue;
    states_[row->second].tokens[place.second] = tokens;
    states_[row->second].journaled[place.second] = tokens.size();
  }
  for (const BadRow& row : bad) {
    ++counts_.rows;
    ++counts_.failed;
    if (failed_before.count(row.key) != 0) {
      ++counts_.before;
      continue;
    }
    ++counts_.failed_now;
    new_done_.push_back({.key = row.key, .id = row.id, .failed = true, .line = row.line});
  }
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (!states_[i].finished) queue_.push_back(i);
  }
  // The longest first: rows at the end are short and finish together.
  std::stable_sort(queue_.begin(), queue_.end(), [this](size_t a, size_t b) {
    return LengthAtMost(rows_[a]) < LengthAtMost(rows_[b]);
  });
  return absl::OkStatus();
}

std::optional<Assignment> BatchCoordinator::Next() {
  std::lock_guard lock(mutex_);
  if (queue_.empty()) return std::nullopt;
  const size_t index = queue_.back();
  queue_.pop_back();
  State& state = states_[index];
  state.assigned = true;
  for (size_t c = 0; c < state.tokens.size(); ++c) {
    if (!state.tokens[c].empty()) state.tokens[c].pop_back();
    // Generated again it may be another token: the journal gets it again, too.
    state.journaled[c] = std::min(state.journaled[c], state.tokens[c].size());
  }
  return Assignment{rows_[index], state.tokens};
}

void BatchCoordinator::Return(uint64_t key) {
  std::lock_guard lock(mutex_);
  const size_t index = by_key_.at(key);
  if (states_[index].finished || !states_[index].assigned) return;
  states_[index].assigned = false;
  queue_.push_back(index);
}

void BatchCoordinator::AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) {
  std::lock_guard lock(mutex_);
  const size_t index = by_key_.at(key);
  State& state = states_[index];
  if (state.finished) return;
  BatchJournal::Tokens& known = state.tokens[choice];
  known.insert(known.end(), tokens.begin(), tokens.end());
  touched_.push_back(index);
  counts_.completion_tokens += static_cast<int64_t>(tokens.size());
}

void BatchCoordinator::Finish(uint64_t key, bool failed, std::string line) {
  std::lock_guard lock(mutex_);
  const size_t index = by_key_.at(key);
  State& state = states_[index];
  if (state.finished) return;
  state.finished = true;
  state.tokens.clear();
  state.tokens.shrink_to_fit();
  if (failed) {
    ++counts_.failed;
    ++counts_.failed_now;
  } else {
    ++counts_.finished;
    counts_.prompt_tokens += static_cast<int64_t>(rows_[index].prompt_ids.size());
  }
  new_done_.push_back(
      {.key = key, .id = rows_[index].id, .failed = failed, .line = std::move(line)});
  woken_ = true;
  changed_.notify_all();
}

void BatchCoordinator::Wake() {
  std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

void BatchCoordinator::Wait(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, longest, [this] { return woken_; });
  woken_ = false;
}

std::string BatchCoordinator::TakeReady() {
  std::string lines;
  for (; next_ordered_ < states_.size() && states_[next_ordered_].committed; ++next_ordered_) {
    State& state = states_[next_ordered_];
    if (!state.line.empty()) absl::StrAppend(&lines, state.line, "\n");
    state.line = std::string();
  }
  return lines;
}

absl::Status BatchCoordinator::CheckFiles() const {
  TANDEM_RETURN_IF_ERROR(journal_.Check());
  TANDEM_RETURN_IF_ERROR(results_.Check());
  return errors_.Check();
}

absl::Status BatchCoordinator::Flush(bool with_tokens) {
  TANDEM_RETURN_IF_ERROR(CheckFiles());
  std::vector<BatchJournal::Done> done;
  {
    std::lock_guard lock(mutex_);
    done.swap(new_done_);
    for (const BatchJournal::Done& one : done) journal_.AddDone(one);
    if (with_tokens) {
      std::sort(touched_.begin(), touched_.end());
      touched_.erase(std::unique(touched_.begin(), touched_.end()), touched_.end());
      for (const size_t index : touched_) {
        State& state = states_[index];
        for (size_t c = 0; c < state.tokens.size(); ++c) {
          const BatchJournal::Tokens& all = state.tokens[c];
          if (all.size() <= state.journaled[c]) continue;
          journal_.AddTokens(rows_[index].key, static_cast<int32_t>(c), state.journaled[c],
                             {all.begin() + static_cast<ptrdiff_t>(state.journaled[c]), all.end()});
          state.journaled[c] = all.size();
        }
      }
      touched_.clear();
    }
  }
  TANDEM_RETURN_IF_ERROR(journal_.Commit());
  std::string lines, error_lines;
  {
    std::lock_guard lock(mutex_);
    for (BatchJournal::Done& one : done) {
      const auto row = by_key_.find(one.key);  // none for one that could not be run
      if (row != by_key_.end()) states_[row->second].committed = true;
      if (one.failed) {
        absl::StrAppend(&error_lines, one.line, "\n");
      } else if (ordered_) {
        states_[row->second].line = std::move(one.line);
      } else {
        absl::StrAppend(&lines, one.line, "\n");
      }
    }
    if (ordered_) lines = TakeReady();
  }
  TANDEM_RETURN_IF_ERROR(results_.Append(lines));
  TANDEM_RETURN_IF_ERROR(errors_.Append(error_lines));
  return CheckFiles();
}

int64_t BatchCoordinator::rows_left() const { return counts().left(); }

bool BatchCoordinator::all_done() const { return rows_left() == 0; }

BatchCounts BatchCoordinator::counts() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace tandem::batch
