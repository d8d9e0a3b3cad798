#include "runtime/batch/journal.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "kernels/base/json.h"
#include "kernels/base/status_macros.h"
#include "nlohmann/json.hpp"
#include "runtime/batch/file.h"

namespace tandem::batch {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr size_t kHashDigits = 16;

std::string Hash(absl::string_view text) {
  return absl::StrFormat("%016x", XXH64(text.data(), text.size(), 0));
}

// The JSON of a record; nullopt where it is damaged.
std::optional<nlohmann::json> ReadRecord(absl::string_view line) {
  if (line.size() <= kHashDigits || line[kHashDigits] != ' ') return std::nullopt;
  const absl::string_view text = line.substr(kHashDigits + 1);
  if (line.substr(0, kHashDigits) != Hash(text)) return std::nullopt;
  auto parsed = json::Parse(std::string_view(text.data(), text.size()), "record");
  if (!parsed.ok() || !parsed->is_object()) return std::nullopt;
  return *std::move(parsed);
}

Json HeaderRecord(const JournalHeader& header) {
  Json record = {{"tandem_batch_journal", kVersion}};
  for (const auto& [name, value] : header) record[name] = value;
  return record;
}

uint64_t KeyOf(const nlohmann::json& record) {
  uint64_t key = 0;
  const auto at = record.find("k");
  if (at != record.end() && at->is_string()) {
    (void)absl::SimpleHexAtoi(at->get<std::string>(), &key);
  }
  return key;
}

// Whether there is a record behind the first line.
bool HasMoreRecords(absl::string_view text) {
  const size_t end = text.find('\n');
  if (end == text.npos) return false;
  for (const absl::string_view line : absl::StrSplit(text.substr(end + 1), '\n')) {
    if (ReadRecord(line).has_value()) return true;
  }
  return false;
}

// Names that only one of the two has count as a difference, too.
absl::Status CompareHeaders(const std::string& path, const nlohmann::json& found,
                            const JournalHeader& header) {
  const Json expected = HeaderRecord(header);
  const auto differ = [&](const std::string& name, const std::string& was, const std::string& is) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, ": ", name, ": found ", was, ", expected ", is,
        "; results of the two would mix: give another --output, or what the job began with"));
  };
  for (const auto& [name, value] : expected.items()) {
    const auto at = found.find(name);
    const std::string was = at == found.end() ? "nothing" : at->dump();
    if (was != value.dump()) return differ(name, was, value.dump());
  }
  for (const auto& [name, value] : found.items()) {
    if (!expected.contains(name)) return differ(name, value.dump(), "nothing");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchJournal>> BatchJournal::Open(
    const std::string& path, const JournalHeader& header, std::chrono::milliseconds lock_wait) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return FileError(path, "cannot be opened");
  std::unique_ptr<BatchJournal> journal(new BatchJournal(path, fd));
  TANDEM_RETURN_IF_ERROR(LockFile(fd, path, lock_wait));
  TANDEM_RETURN_IF_ERROR(journal->Read(header));
  return journal;
}

std::optional<std::string> BatchJournal::HeaderValue(const std::string& path,
                                                     const std::string& name) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;  // a pipe would hold us
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  const auto record = ReadRecord(line);
  if (!record.has_value()) return std::nullopt;
  const auto value = record->find(name);
  if (value == record->end() || !value->is_string()) return std::nullopt;
  return value->get<std::string>();
}

BatchJournal::~BatchJournal() { close(fd_); }

absl::Status BatchJournal::Read(const JournalHeader& header) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadWhole(fd_, path_));
  size_t at = 0;
  bool first = true;
  while (at < text.size()) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    const auto record = ReadRecord(absl::string_view(text).substr(at, end - at));
    if (!record.has_value()) break;
    if (first) {
      TANDEM_RETURN_IF_ERROR(CompareHeaders(path_, *record, header));
      first = false;
    } else if (record->contains("t")) {
      const auto& ids = (*record)["t"];
      Tokens& tokens = progress_[{KeyOf(*record), record->value("c", 0)}];
      // Records of before had no "from": always the end.
      const size_t from = record->value("from", tokens.size());
      if (from > tokens.size()) {
        return absl::DataLossError(absl::StrCat(
            path_, ": byte ", at, ": found tokens from ", from, " on of a row that has ",
            tokens.size(), ", expected all records in order; put a copy of the file in its place, ",
            "or give another --output"));
      }
      tokens.resize(from);
      for (const auto& id : ids) tokens.push_back(id.get<int32_t>());
    } else {
      Done done;
      done.key = KeyOf(*record);
      done.id = record->value("id", "");
      done.failed = record->value("failed", false);
      done.line = record->value("line", "");
      done_.push_back(std::move(done));
    }
    at = end + 1;
  }
  if (HasMoreRecords(absl::string_view(text).substr(at))) {
    return absl::DataLossError(absl::StrCat(
        path_, ": byte ", at, ": found a damaged record with whole ones behind it, expected none; ",
        "put a copy of the file in its place, or give another --output"));
  }
  if (first && text.find('\n') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        path_, ": found no journal of a batch, expected one or no file; give another --output"));
  }
  for (const Done& done : done_) {
    for (auto it = progress_.lower_bound({done.key, 0});
         it != progress_.end() && it->first.first == done.key;) {
      it = progress_.erase(it);
    }
  }
  size_ = static_cast<int64_t>(at);
  lost_tail_ = at < text.size() && !first;
  if (at < text.size() && ftruncate(fd_, size_) != 0) return FileError(path_, "cannot be repaired");
  if (lseek(fd_, size_, SEEK_SET) < 0) return FileError(path_, "cannot be read");
  is_new_ = first;
  if (!first) return absl::OkStatus();
  Add(HeaderRecord(header).dump());
  return Commit();
}

void BatchJournal::Add(const std::string& json) {
  absl::StrAppend(&pending_, Hash(json), " ", json, "\n");
}

void BatchJournal::AddDone(const Done& done) {
  Json record = {{"k", absl::StrFormat("%016x", done.key)}, {"id", done.id}};
  if (done.failed) record["failed"] = true;
  record["line"] = done.line;
  Add(record.dump());
}

void BatchJournal::AddTokens(uint64_t key, int32_t choice, size_t from, const Tokens& tokens) {
  Json record = {{"k", absl::StrFormat("%016x", key)}};
  if (choice != 0) record["c"] = choice;
  record["from"] = from;
  record["t"] = tokens;
  Add(record.dump());
}

absl::Status BatchJournal::Check() const {
  const absl::Status checked = CheckInPlace(fd_, path_, size_);
  if (checked.ok()) return checked;
  // What was answered is in this file alone: it gets its name back if that is free.
  const std::string message(checked.message());
  const int copy = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (copy < 0) {
    return absl::AbortedError(
        absl::StrCat(message, "; put the job's own file back and run the same command again"));
  }
  absl::StatusOr<std::string> text = ReadWhole(fd_, path_);
  absl::Status saved = text.status();
  if (saved.ok()) saved = WriteAndSync(copy, path_, 0, *text);
  close(copy);
  if (!saved.ok()) {
    unlink(path_.c_str());
    return absl::AbortedError(
        absl::StrCat(message, "; writing it again failed: ", std::string(saved.message())));
  }
  return absl::AbortedError(
      absl::StrCat(message, "; it has been written again: run the same command again"));
}

absl::Status BatchJournal::Commit() {
  if (pending_.empty()) return absl::OkStatus();
  const absl::Status written = WriteAndSync(fd_, path_, size_, pending_);
  TANDEM_RETURN_IF_ERROR(written);
  size_ += static_cast<int64_t>(pending_.size());
  pending_.clear();
  return absl::OkStatus();
}

}  // namespace tandem::batch
