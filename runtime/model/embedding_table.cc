#include "runtime/model/embedding_table.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/host_memory.h"
#include "runtime/loader/quantized_tensors.h"
#include "runtime/model/model_matrices.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {
namespace {

using loader::CheckpointTensor;
using loader::PackedFile;
using loader::TensorInfo;
using parallel::Range;

constexpr uint64_t kPage = loader::kPackedPage;

uint64_t PagesUp(uint64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// What a tensor takes in memory and in the packed file.
uint64_t Padded(const TensorInfo& info) { return PagesUp(info.bytes); }

// A tied head has the name of the tensor alone.
std::string EntryName(const TensorInfo& info) { return absl::StrCat("embedding ", info.name); }

std::string EntryDescription(const TensorInfo& info) {
  return absl::StrCat("stored, ", info.stored_type, " ", loader::ShapeString(info.shape));
}

const PackedFile::Entry* EntryOf(const PackedFile& file, const TensorInfo& info) {
  const PackedFile::Entry* entry = file.Find(EntryName(info), EntryDescription(info));
  return entry != nullptr && entry->bytes == info.bytes ? entry : nullptr;
}

// The tensors that StoredMatrix::Tensors has of the embedding, from headers alone.
std::vector<const TensorInfo*> EmbeddingTensors(const loader::ModelConfig& config,
                                                const loader::Checkpoint& checkpoint) {
  const Module module = EmbeddingModule(config);
  std::vector<std::string> names;
  if (const loader::QuantizedScheme* scheme = SchemeOf(config, checkpoint, module);
      scheme == nullptr) {
    names.push_back(module.name + ".weight");
  } else {
    for (const loader::ExpectedTensor& tensor :
         loader::QuantizedTensors(*scheme, checkpoint, module.name, module.rows, module.columns)) {
      names.push_back(tensor.name);
    }
    const std::string groups = loader::NamesOf(*scheme, checkpoint, module.name).group_index;
    if (!scheme->act_order && checkpoint.Has(groups)) names.push_back(groups);
  }
  std::vector<const TensorInfo*> tensors;
  for (const std::string& name : names) {
    if (const auto info = checkpoint.Find(name); info.ok()) tensors.push_back(*info);
  }
  return tensors;
}

}  // namespace

uint64_t EmbeddingBytes(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint) {
  uint64_t bytes = 0;
  for (const TensorInfo* info : EmbeddingTensors(config, checkpoint)) {
    bytes += Padded(*info);
  }
  return bytes;
}

Range EmbeddingPart(uint64_t bytes, int part, int parts) {
  const auto begin = [&](int p) {
    return static_cast<int64_t>(p == parts ? bytes
                                           : bytes / kPage * static_cast<uint64_t>(p) /
                                                 static_cast<uint64_t>(parts) * kPage);
  };
  return {begin(part), begin(part + 1)};
}

absl::Status EmbeddingTable::ReadFrom(const PackedFile& file) {
  for (const CheckpointTensor& tensor : stored_.Tensors()) {
    const PackedFile::Entry* entry = EntryOf(file, tensor.info());
    if (entry == nullptr) {
      return absl::NotFoundError(
          absl::StrCat(file.path(), ": found no ", EntryName(tensor.info()), ""));
    }
    tensor.ReadWith([&file, entry](uint64_t offset, size_t bytes, void* dst) {
      return file.Read(*entry, offset, bytes, static_cast<std::byte*>(dst));
    });
  }
  packed_ = &file;
  return absl::OkStatus();
}

absl::Status EmbeddingTable::CheckRows(Range rows, bool streamed) const {
  if (stored_.tensor() == nullptr) {
    TANDEM_RETURN_IF_ERROR(stored_.quantized()->CheckRows(rows.begin, rows.end));
  }
  if (!streamed || stored_.rows() == 0) return absl::OkStatus();
  TANDEM_CHECK(packed_ != nullptr);
  const auto total = static_cast<uint64_t>(stored_.rows());
  for (const CheckpointTensor& tensor : stored_.Tensors()) {
    // As large a part of each tensor as of the rows: all ranks together check all of it.
    const PackedFile::Entry& entry = *EntryOf(*packed_, tensor.info());
    const auto at = [&](int64_t row) { return entry.bytes / total * static_cast<uint64_t>(row); };
    const uint64_t end = static_cast<uint64_t>(rows.end) == total ? entry.bytes : at(rows.end);
    if (at(rows.begin) == end) continue;
    TANDEM_RETURN_IF_ERROR(packed_->CheckPages((entry.offset + at(rows.begin)) / kPage * kPage,
                                               PagesUp(entry.offset + end)));
  }
  return absl::OkStatus();
}

absl::Status EmbeddingTable::Fill(const std::vector<CheckpointTensor>& tensors, Range part,
                                  std::byte* memory) const {
  int64_t tensor_begin = 0;
  for (const CheckpointTensor& tensor : tensors) {
    const auto bytes = static_cast<int64_t>(tensor.info().bytes);
    const int64_t begin = std::max(part.begin, tensor_begin);
    const int64_t end = std::min(part.end, tensor_begin + bytes);
    if (begin < end) {
      TANDEM_RETURN_IF_ERROR(
          tensor.CopyBytes(begin - tensor_begin, end - tensor_begin, memory + begin));
    }
    tensor_begin += static_cast<int64_t>(Padded(tensor.info()));
  }
  return absl::OkStatus();
}

absl::Status EmbeddingTable::KeepInMemory(const EmbeddingMemory& memory) {
  TANDEM_CHECK(memory.shared != nullptr || memory.parts == 1);
  const std::vector<CheckpointTensor> tensors = stored_.Tensors();
  uint64_t bytes = 0;
  for (const CheckpointTensor& tensor : tensors) bytes += Padded(tensor.info());
  std::byte* all = memory.shared;
  if (all == nullptr) {
    TANDEM_ASSIGN_OR_RETURN(own_, kernels::AllocateHost(bytes));
    all = own_.as<std::byte>();
  }
  const Range part = EmbeddingPart(bytes, memory.part, memory.parts);
  TANDEM_RETURN_IF_ERROR(Fill(tensors, part, all));
  held_bytes_ = static_cast<uint64_t>(part.size());
  if (stored_.tensor() != nullptr) rows_ = all;
  const std::byte* begin = all;
  for (const CheckpointTensor& tensor : tensors) {
    tensor.ReadWith([begin](uint64_t offset, size_t count, void* dst) {
      std::memcpy(dst, begin + offset, count);
      return absl::OkStatus();
    });
    begin += Padded(tensor.info());
  }
  packed_ = nullptr;
  return absl::OkStatus();
}

absl::Status EmbeddingTable::Lookup(kernels::Backend& backend, const int32_t* ids, int64_t tokens,
                                    int64_t hidden, float* out) {
  if (rows_ != nullptr) {
    backend.EmbedTokens(rows_, stored_.tensor()->dtype(), hidden, ids, tokens, out);
    return absl::OkStatus();
  }
  if (const CheckpointTensor* tensor = stored_.tensor(); tensor != nullptr) {
    const int64_t row_bytes = tensor->row_bytes();
    staged_.resize(tokens * row_bytes);
    in_order_.resize(tokens);
    std::iota(in_order_.begin(), in_order_.end(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      TANDEM_RETURN_IF_ERROR(tensor->CopyRows(ids[t], ids[t] + 1, staged_.data() + t * row_bytes));
    }
    backend.EmbedTokens(staged_.data(), tensor->dtype(), hidden, in_order_.data(), tokens, out);
    return absl::OkStatus();
  }
  row_.resize(hidden);
  for (int64_t t = 0; t < tokens; ++t) {
    const loader::Block block = {ids[t], ids[t] + 1, 0, hidden};
    TANDEM_RETURN_IF_ERROR(stored_.Prepare(block));
    TANDEM_RETURN_IF_ERROR(stored_.Read(block, kernels::DType::kF32,
                                        reinterpret_cast<std::byte*>(row_.data()),
                                        hidden * sizeof(float)));
    backend.CopyFromHost(out + t * hidden, row_.data(), hidden * sizeof(float));
  }
  return absl::OkStatus();
}

absl::Status WriteEmbedding(const StoredMatrix& embedding, loader::PackedFileWriter& writer) {
  for (const CheckpointTensor& tensor : embedding.Tensors()) {
    TANDEM_RETURN_IF_ERROR(
        writer.Append(EntryName(tensor.info()), EntryDescription(tensor.info()),
                      tensor.info().bytes, [&](uint64_t offset, std::span<std::byte> piece) {
                        return tensor.CopyBytes(offset, offset + piece.size(), piece.data());
                      }));
  }
  return absl::OkStatus();
}

absl::Status CheckEmbedding(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                            const PackedFile& file) {
  for (const TensorInfo* info : EmbeddingTensors(config, checkpoint)) {
    if (EntryOf(file, *info) != nullptr) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": ", EntryName(*info), ": found none, expected ", info->bytes, " bytes"));
  }
  return absl::OkStatus();
}

}  // namespace tandem::model
