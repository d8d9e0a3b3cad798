// All tensors of a model folder: model.safetensors, or the files that
// model.safetensors.index.json names.
//
// Opening reads headers only. A rank then takes each tensor it needs once and
// copies its own rows or columns. The bytes are counted, so that a test can
// compare them with the rank's planned shard.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/loader/model_folder.h"
#include "runtime/loader/safetensors.h"

namespace tandem::loader {

class Checkpoint;

// A tensor taken from a Checkpoint, which must outlive it. Copyable; many threads
// may copy at once. Elements keep the type of the file (dtype());
// a 1-D tensor [n] has n rows of one element.
//
// Ranges come from the sharding arithmetic: one outside the tensor is a broken
// invariant and aborts. DataLoss if the file can no longer be read.
class CheckpointTensor {
 public:
  const TensorInfo& info() const { return *info_; }
  kernels::DType dtype() const { return *info_->dtype; }  // of a tensor that has one
  const std::string& path() const;                        // of its file, for messages
  int64_t rows() const;                                   // shape[0]; 1 for a scalar
  int64_t row_bytes() const;                              // bytes of the remaining dimensions

  // Rows [row_begin, row_end) to dst, (row_end - row_begin) * row_bytes().
  absl::Status CopyRows(int64_t row_begin, int64_t row_end, void* dst) const;
  // Everything.
  absl::Status CopyAll(void* dst) const { return CopyRows(0, rows(), dst); }

  // Bytes [begin, end) of the tensor.
  absl::Status CopyBytes(uint64_t begin, uint64_t end, void* dst) const;

  // Columns [column_begin, column_end) of rows [row_begin, row_end) of a 2-D
  // tensor; row r of the block starts at dst + (r - row_begin) * dst_stride
  // (bytes). Reads no column outside, beyond what a page holds.
  absl::Status CopyBlock(int64_t row_begin, int64_t row_end, int64_t column_begin,
                         int64_t column_end, void* dst, size_t dst_stride) const;
  // The same of bytes [byte_begin, byte_end) of each row, of a tensor of any shape and type.
  absl::Status CopyRowBytes(int64_t row_begin, int64_t row_end, int64_t byte_begin,
                            int64_t byte_end, void* dst, size_t dst_stride) const;
  // All rows, packed.
  absl::Status CopyColumns(int64_t column_begin, int64_t column_end, void* dst) const;

  // From now on, all copies of this tensor read bytes [offset, offset + bytes) of it with `reader`,
  // not from its file, and count nothing. Not thread-safe.
  using Reader = std::function<absl::Status(uint64_t offset, size_t bytes, void* dst)>;
  void ReadWith(Reader reader) const;

 private:
  friend class Checkpoint;
  CheckpointTensor(Checkpoint* checkpoint, const TensorInfo* info)
      : checkpoint_(checkpoint), info_(info) {}
  // Bytes [offset, offset + bytes) of the tensor.
  absl::Status ReadBytes(uint64_t offset, size_t bytes, void* dst) const;
  void Prefetch(uint64_t offset, size_t bytes) const;
  void CountRead(uint64_t bytes) const;
  const Reader& reader() const;
  Checkpoint* checkpoint_;
  const TensorInfo* info_;
};

// A tensor that the model needs.
struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<std::string> types = {};  // as files spell them; empty: F32, F16 or BF16
};

class Checkpoint {
 public:
  // Errors name the file and tensor. Index entries that leave the folder
  // (separators, "..", NUL), that name a file which lacks the tensor, and
  // tensors that the index does not list are refused; files that are symlinks
  // are not (the hub's cache is made of them).
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const ModelFolder& folder);

  // Headers only: what a planner reads. In file order; never changes.
  const std::vector<TensorInfo>& ListTensors() const { return tensors_; }
  size_t file_count() const { return files_.size(); }
  const SafetensorsFile& file(size_t index) const { return files_[index]; }

  bool Has(std::string_view name) const;
  // NotFound naming the folder. The pointer lives as long as the Checkpoint.
  absl::StatusOr<const TensorInfo*> Find(std::string_view name) const;

  // Checks a list at once without taking: one line that names up to eight
  // missing tensors and counts the rest; else the first with a wrong shape or
  // type.
  absl::Status CheckPresent(const std::vector<ExpectedTensor>& expected) const;

  // Marks a tensor as used. NotFound if there is none (remembered for
  // CheckAllUsed), InvalidArgument on another shape or a type that is not F32,
  // F16 or BF16, FailedPrecondition if it was taken before. Not thread-safe.
  absl::StatusOr<CheckpointTensor> Take(std::string_view name,
                                        const std::vector<int64_t>& expected_shape) {
    return Take(ExpectedTensor{std::string(name), expected_shape});
  }
  // The same, of the types that are expected.
  absl::StatusOr<CheckpointTensor> Take(const ExpectedTensor& expected);

  // Marks a tensor as used whose values are not needed, if there is one.
  void Pass(std::string_view name);

  // Error if a Take found no tensor, or if tensors were never taken and
  // `allowed_unused` does not excuse them: weights that are left over mean that
  // the model is not the one that the configuration describes.
  absl::Status CheckAllUsed(const std::function<bool(std::string_view name)>& allowed_unused) const;

  // DATA_LOSS where somebody has written to one of the files since it was opened.
  absl::Status CheckUnchanged() const;

  // Payload bytes that were copied from the files; headers are not in it.
  uint64_t bytes_read() const { return bytes_read_.load(std::memory_order_relaxed); }
  uint64_t header_bytes() const;

  // Digest of config.json's text and of every file's name, size and header.
  // Ranks compare it at start. It does not distinguish weights of equal names and
  // shapes: that would mean reading them all.
  uint64_t Identity() const { return identity_; }

  // Digest of 4 KiB in the middle of every tensor, which distinguishes models of equal names and
  // shapes: fine-tunes of one model may differ in some tensors only, but there everywhere.
  // DataLoss if a file cannot be read. Not counted by bytes_read().
  absl::StatusOr<uint64_t> SampleDigest() const;

 private:
  friend class CheckpointTensor;
  explicit Checkpoint(std::string folder) : folder_(std::move(folder)) {}
  absl::Status AddFile(const ModelFolder& folder, const std::string& name);
  // The files that the index names, in order; checks that they and the index agree.
  absl::StatusOr<std::vector<std::string>> AddIndexedFiles(const ModelFolder& folder);
  absl::Status CheckAgainst(const TensorInfo& info, const ExpectedTensor& expected) const;

  std::string folder_;  // for messages
  std::vector<SafetensorsFile> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t> by_name_;  // into tensors_
  std::vector<bool> taken_;                          // per tensor
  std::vector<CheckpointTensor::Reader> readers_;    // per tensor; null: its file
  std::vector<std::string> missing_;                 // Take found none of that name
  std::atomic<uint64_t> bytes_read_{0};
  uint64_t identity_ = 0;
};

// Leftovers known to be harmless: rotary_emb.inv_freq of old conversions (we
// compute them) and, when the embedding is tied, lm_head.weight (the embedding
// stands for it, as in Transformers).
bool IsHarmlessLeftover(std::string_view name, bool tie_word_embeddings);

// Scales and zero points of a quantized KV cache, as checkpoints keep them beside
// the attention or its projections.
bool IsKvScale(std::string_view name);

}  // namespace tandem::loader
