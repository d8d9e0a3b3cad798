#include "runtime/loader/checkpoint.h"

#include <xxhash.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/check.h"
#include "kernels/base/json.h"
#include "kernels/base/json_field.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

using Json = nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxConfigBytes = 4 << 20;
constexpr int kMaxIndexDepth = 8;
constexpr size_t kMaxFiles = 10000;
constexpr size_t kNamesShown = 8;

// "a, b, c and 5 more"
std::string NameList(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < kNamesShown; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", json::Quoted(names[i]));
  }
  if (names.size() > kNamesShown)
    absl::StrAppend(&text, " and ", names.size() - kNamesShown, " more");
  return text;
}

// weight_map of the index: tensor name to file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const ModelFolder& folder) {
  const std::string path = folder.PathOf(kIndexFile);
  TANDEM_ASSIGN_OR_RETURN(const std::string text, folder.ReadSmallFile(kIndexFile, kMaxIndexBytes));
  TANDEM_ASSIGN_OR_RETURN(const Json root, json::Parse(text, path, kMaxIndexDepth));
  const auto entry = root.is_object() ? root.find("weight_map") : root.end();
  if (entry == root.end() || !entry->is_object() || entry->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": weight_map: found ", entry == root.end() ? "nothing" : json::Shown(*entry),
        ", expected an object of tensor names and files"));
  }
  std::map<std::string, std::string> map;
  for (auto it = entry->begin(); it != entry->end(); ++it) {
    if (!it->is_string() || !IsPlainFileName(it->get_ref<const std::string&>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map.", json::Quoted(it.key()), ": found ", json::Shown(*it),
                       ", expected the name of a file in the same folder"));
    }
    map.emplace(it.key(), it->get<std::string>());
  }
  return map;
}

}  // namespace

int64_t CheckpointTensor::rows() const { return info_->shape.empty() ? 1 : info_->shape[0]; }

int64_t CheckpointTensor::row_bytes() const {
  const int64_t n = rows();
  return n == 0 ? 0 : static_cast<int64_t>(info_->bytes) / n;
}

absl::Status CheckpointTensor::CopyRows(int64_t row_begin, int64_t row_end, void* dst) const {
  TANDEM_CHECK(0 <= row_begin && row_begin <= row_end && row_end <= rows());
  const uint64_t stride = static_cast<uint64_t>(row_bytes());
  return CopyBytes(static_cast<uint64_t>(row_begin) * stride,
                   static_cast<uint64_t>(row_end) * stride, dst);
}

absl::Status CheckpointTensor::CopyBytes(uint64_t begin, uint64_t end, void* dst) const {
  TANDEM_CHECK(begin <= end && end <= info_->bytes);
  // Asks for the next bytes before it copies these: the descriptor is in random
  // mode, where the kernel reads nothing ahead by itself.
  constexpr uint64_t kReadBytes = 1 << 20;
  constexpr uint64_t kAhead = 4 << 20;
  char* to = static_cast<char*>(dst);
  uint64_t prefetched = begin;
  for (uint64_t at = begin; at < end;) {
    const uint64_t ahead = std::min(end, at + kAhead);
    if (ahead >= prefetched + kReadBytes || (ahead == end && prefetched < end)) {
      Prefetch(prefetched, ahead - prefetched);
      prefetched = ahead;
    }
    const uint64_t count = std::min(kReadBytes, end - at);
    TANDEM_RETURN_IF_ERROR(ReadBytes(at, count, to));
    to += count;
    at += count;
  }
  CountRead(end - begin);
  return absl::OkStatus();
}

absl::Status CheckpointTensor::CopyBlock(int64_t row_begin, int64_t row_end, int64_t column_begin,
                                         int64_t column_end, void* dst, size_t dst_stride) const {
  TANDEM_CHECK(info_->shape.size() == 2);
  TANDEM_CHECK(0 <= column_begin && column_begin <= column_end && column_end <= info_->shape[1]);
  const int64_t element = column_end == 0 ? 0 : row_bytes() / info_->shape[1];
  return CopyRowBytes(row_begin, row_end, column_begin * element, column_end * element, dst,
                      dst_stride);
}

absl::Status CheckpointTensor::CopyRowBytes(int64_t row_begin, int64_t row_end, int64_t byte_begin,
                                            int64_t byte_end, void* dst, size_t dst_stride) const {
  TANDEM_CHECK(0 <= row_begin && row_begin <= row_end && row_end <= rows());
  if (row_begin == row_end || byte_begin == byte_end) return absl::OkStatus();
  TANDEM_CHECK(0 <= byte_begin && byte_begin <= byte_end && byte_end <= row_bytes());
  const uint64_t width = static_cast<uint64_t>(byte_end - byte_begin);
  TANDEM_CHECK(dst_stride >= width);
  const uint64_t stride = static_cast<uint64_t>(row_bytes());
  if (width == stride && dst_stride == stride) return CopyRows(row_begin, row_end, dst);

  const auto source = [&](int64_t row) {
    return static_cast<uint64_t>(row) * stride + static_cast<uint64_t>(byte_begin);
  };
  // As in CopyRows, about 4 MiB of slices are on their way while one is copied.
  const int64_t ahead = std::max<int64_t>(1, static_cast<int64_t>((4 << 20) / width));
  int64_t prefetched = row_begin;
  char* to = static_cast<char*>(dst);
  for (int64_t row = row_begin; row < row_end; ++row) {
    for (; prefetched < row_end && prefetched <= row + ahead; ++prefetched) {
      Prefetch(source(prefetched), width);
    }
    TANDEM_RETURN_IF_ERROR(ReadBytes(source(row), width, to));
    to += dst_stride;
  }
  CountRead(width * static_cast<uint64_t>(row_end - row_begin));
  return absl::OkStatus();
}

absl::Status CheckpointTensor::CopyColumns(int64_t column_begin, int64_t column_end,
                                           void* dst) const {
  TANDEM_CHECK(column_begin <= column_end);
  const size_t width = static_cast<size_t>(column_end - column_begin) * kernels::DTypeSize(dtype());
  return CopyBlock(0, rows(), column_begin, column_end, dst, width);
}

const std::string& CheckpointTensor::path() const {
  return checkpoint_->files_[info_->file].file().path();
}

void CheckpointTensor::ReadWith(Reader reader) const {
  checkpoint_->readers_.resize(checkpoint_->tensors_.size());
  checkpoint_->readers_[info_ - checkpoint_->tensors_.data()] = std::move(reader);
}

const CheckpointTensor::Reader& CheckpointTensor::reader() const {
  static const Reader none;
  const size_t index = static_cast<size_t>(info_ - checkpoint_->tensors_.data());
  return index < checkpoint_->readers_.size() ? checkpoint_->readers_[index] : none;
}

absl::Status CheckpointTensor::ReadBytes(uint64_t offset, size_t bytes, void* dst) const {
  if (reader() != nullptr) return reader()(offset, bytes, dst);
  return checkpoint_->files_[info_->file].file().Read(info_->offset + offset, bytes, dst);
}

void CheckpointTensor::Prefetch(uint64_t offset, size_t bytes) const {
  if (reader() != nullptr) return;
  checkpoint_->files_[info_->file].file().Prefetch(info_->offset + offset, bytes);
}

void CheckpointTensor::CountRead(uint64_t bytes) const {
  if (reader() != nullptr) return;
  checkpoint_->bytes_read_.fetch_add(bytes, std::memory_order_relaxed);
}

absl::Status Checkpoint::AddFile(const ModelFolder& folder, const std::string& name) {
  TANDEM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(folder.PathOf(name)));
  for (const TensorInfo& info : file.tensors()) {
    const auto [entry, is_new] = by_name_.emplace(info.name, tensors_.size());
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.file().path(), ": tensor ", json::Quoted(info.name), ": found it here and in ",
          files_[tensors_[entry->second].file].file().path(), ", expected it in one file"));
    }
    tensors_.push_back(info);
    tensors_.back().file = files_.size();
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const ModelFolder& folder) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(folder.path()));
  std::vector<std::string> names;
  if (folder.Has(kSingleFile)) {
    // As in Transformers, the single file wins over an index beside it.
    names.push_back(kSingleFile);
    TANDEM_RETURN_IF_ERROR(checkpoint->AddFile(folder, kSingleFile));
  } else if (folder.Has(kIndexFile)) {
    TANDEM_ASSIGN_OR_RETURN(names, checkpoint->AddIndexedFiles(folder));
  } else {
    const bool has_pickle =
        folder.Has("pytorch_model.bin") || folder.Has("pytorch_model.bin.index.json");
    return absl::NotFoundError(
        absl::StrCat(folder.path(), ": weights: found ", has_pickle ? "pytorch_model.bin" : "none",
                     ", expected ", kSingleFile, " or ", kIndexFile,
                     has_pickle ? "; convert it to safetensors" : "; download them"));
  }
  checkpoint->taken_.assign(checkpoint->tensors_.size(), false);

  // Files are in the order of their names, the same on all ranks.
  std::string identity;
  if (folder.Has("config.json")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string config,
                            folder.ReadSmallFile("config.json", kMaxConfigBytes));
    absl::StrAppend(&identity, config.size(), "\n", config);
  }
  for (size_t i = 0; i < names.size(); ++i) {
    const SafetensorsFile& file = checkpoint->files_[i];
    absl::StrAppend(&identity, names[i], "\n", file.file().size(), "\n", file.header_digest(),
                    "\n");
  }
  checkpoint->identity_ = XXH3_64bits(identity.data(), identity.size());
  return checkpoint;
}

absl::StatusOr<std::vector<std::string>> Checkpoint::AddIndexedFiles(const ModelFolder& folder) {
  TANDEM_ASSIGN_OR_RETURN(const auto weight_map, ReadIndex(folder));
  std::set<std::string> unique;
  for (const auto& [tensor, file] : weight_map) unique.insert(file);
  const std::vector<std::string> names(unique.begin(), unique.end());
  const std::string index = folder.PathOf(kIndexFile);
  if (names.size() > kMaxFiles) {
    return absl::InvalidArgumentError(absl::StrCat(index, ": weight_map: found ", names.size(),
                                                   " files, expected at most ", kMaxFiles));
  }
  std::vector<std::string> absent;
  for (const std::string& name : names) {
    if (!folder.Has(name)) absent.push_back(name);
  }
  if (!absent.empty()) {
    return absl::NotFoundError(absl::StrCat(index, ": weight_map: found no file ", NameList(absent),
                                            ", expected all in the folder; download them"));
  }
  for (const std::string& name : names) TANDEM_RETURN_IF_ERROR(AddFile(folder, name));
  for (const auto& [tensor, file] : weight_map) {
    const auto entry = by_name_.find(tensor);
    const std::string* found =
        entry == by_name_.end() ? nullptr : &names[tensors_[entry->second].file];
    if (found != nullptr && *found == file) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(index, ": weight_map.", json::Quoted(tensor), ": found it in ",
                     found == nullptr ? "no file" : json::Quoted(*found), ", expected it in ",
                     json::Quoted(file), "; index and files are of different downloads"));
  }
  for (const TensorInfo& info : tensors_) {
    if (weight_map.count(info.name) != 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        index, ": weight_map: found no ", json::Quoted(info.name), ", expected it as ",
        json::Quoted(names[info.file]), " holds it; index and files are of different downloads"));
  }
  return names;
}

absl::StatusOr<uint64_t> Checkpoint::SampleDigest() const {
  constexpr uint64_t kSample = 4096;
  const auto size = [&](const TensorInfo& info) { return std::min(kSample, info.bytes); };
  const auto begin = [&](const TensorInfo& info) {
    return info.offset + (info.bytes - size(info)) / 2;
  };
  // All on their way at once: one after the other they would be as slow as seeks.
  for (const TensorInfo& info : tensors_) {
    files_[info.file].file().Prefetch(begin(info), size(info));
  }
  uint64_t digest = 0;
  char sample[kSample];
  for (const TensorInfo& info : tensors_) {
    TANDEM_RETURN_IF_ERROR(files_[info.file].file().Read(begin(info), size(info), sample));
    digest = XXH3_64bits_withSeed(sample, size(info), digest);
  }
  return digest;
}

bool Checkpoint::Has(std::string_view name) const {
  return by_name_.find(std::string(name)) != by_name_.end();
}

absl::StatusOr<const TensorInfo*> Checkpoint::Find(std::string_view name) const {
  const auto entry = by_name_.find(std::string(name));
  if (entry == by_name_.end()) {
    return absl::NotFoundError(absl::StrCat(folder_, ": tensor ", json::Quoted(name),
                                            ": found none, expected one; this is not the model "
                                            "that config.json describes"));
  }
  return &tensors_[entry->second];
}

absl::Status Checkpoint::CheckAgainst(const TensorInfo& info,
                                      const ExpectedTensor& expected) const {
  const std::string& path = files_[info.file].file().path();
  if (info.shape != expected.shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": tensor ", json::Quoted(info.name), " shape: found ", ShapeString(info.shape),
        ", expected ", ShapeString(expected.shape), " by config.json; one of the two is wrong"));
  }
  const std::vector<std::string>& types = expected.types;
  if (types.empty() ? !info.dtype.has_value()
                    : std::find(types.begin(), types.end(), info.stored_type) == types.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": tensor ", json::Quoted(info.name), " dtype: found ", info.stored_type,
        ", expected ",
        types.empty() ? "F32, F16 or BF16; convert the weights"
                      : absl::StrCat(absl::StrJoin(types, " or "), " by quantization_config")));
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::CheckPresent(const std::vector<ExpectedTensor>& expected) const {
  std::vector<std::string> missing;
  for (const ExpectedTensor& tensor : expected) {
    if (!Has(tensor.name)) missing.push_back(tensor.name);
  }
  if (!missing.empty()) {
    return absl::NotFoundError(absl::StrCat(folder_, ": tensors: found no ", NameList(missing),
                                            ", expected all ", expected.size(),
                                            " that config.json implies; one of the two is wrong"));
  }
  for (const ExpectedTensor& tensor : expected) {
    TANDEM_RETURN_IF_ERROR(CheckAgainst(tensors_[by_name_.find(tensor.name)->second], tensor));
  }
  return absl::OkStatus();
}

absl::StatusOr<CheckpointTensor> Checkpoint::Take(const ExpectedTensor& expected) {
  const std::string& name = expected.name;
  const absl::StatusOr<const TensorInfo*> info = Find(name);
  if (!info.ok()) {
    missing_.emplace_back(name);
    return info.status();
  }
  TANDEM_RETURN_IF_ERROR(CheckAgainst(**info, expected));
  const size_t index = static_cast<size_t>(*info - tensors_.data());
  if (taken_[index]) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder_, ": tensor ", json::Quoted(name),
                     ": found it used twice, expected once; two layers claim the same weights"));
  }
  taken_[index] = true;
  return CheckpointTensor(this, *info);
}

void Checkpoint::Pass(std::string_view name) {
  const auto entry = by_name_.find(std::string(name));
  if (entry != by_name_.end()) taken_[entry->second] = true;
}

absl::Status Checkpoint::CheckAllUsed(
    const std::function<bool(std::string_view)>& allowed_unused) const {
  if (!missing_.empty()) {
    return absl::NotFoundError(absl::StrCat(folder_, ": tensors: found no ", NameList(missing_),
                                            ", expected all that config.json implies; one of the "
                                            "two is wrong"));
  }
  std::vector<std::string> unused;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (!taken_[i] && !allowed_unused(tensors_[i].name)) unused.push_back(tensors_[i].name);
  }
  if (unused.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      folder_, ": tensors: found ", NameList(unused),
      ", expected none that the model of config.json does not use; one of the two is wrong"));
}

absl::Status Checkpoint::CheckUnchanged() const {
  for (const SafetensorsFile& file : files_) {
    TANDEM_RETURN_IF_ERROR(file.file().CheckUnchanged());
  }
  return absl::OkStatus();
}

uint64_t Checkpoint::header_bytes() const {
  uint64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += file.header_bytes();
  return bytes;
}

bool IsHarmlessLeftover(std::string_view name, bool tie_word_embeddings) {
  constexpr std::string_view kInverseFrequencies = ".rotary_emb.inv_freq";
  if (name.size() > kInverseFrequencies.size() &&
      name.substr(name.size() - kInverseFrequencies.size()) == kInverseFrequencies) {
    return true;
  }
  return tie_word_embeddings && name == "lm_head.weight";
}

bool IsKvScale(std::string_view name) {
  if (name.find(".self_attn.") == std::string_view::npos) return false;
  for (const std::string_view part : {"q", "k", "v", "kv"}) {
    for (const std::string_view kind : {"_scale", "_zero_point"}) {
      const std::string suffix = absl::StrCat(".", std::string(part), std::string(kind));
      if (name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace tandem::loader
