// The embedding, whose rows are looked up in every step, by every rank. Nothing that happens to the
// model's files after loading changes an answer: rows lie in memory, which the ranks of a host
// share, or, with streamed weights, in the packed file, whose digests are checked at each look-up.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/device_memory.h"
#include "parallel/shard_plan.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/packed_file.h"
#include "runtime/model/matrix_source.h"

namespace tandem::model {

// The stored tensors of the embedding in memory, one after the other, and what of them one rank
// fills: part `part` of `parts` equal ones.
struct EmbeddingMemory {
  std::byte* shared = nullptr;  // EmbeddingBytes long, of all ranks of the host; null: its own
  int part = 0;
  int parts = 1;
  uint64_t stored_bytes = 0;  // EmbeddingBytes; only a plan without a checkpoint reads it
};

// Bytes of the embedding as the checkpoint stores it, each tensor rounded up to whole pages; from
// headers alone.
uint64_t EmbeddingBytes(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint);

// Bytes [begin, end) of `bytes` that a rank fills: whole pages, but for the last part.
parallel::Range EmbeddingPart(uint64_t bytes, int part, int parts);

class EmbeddingTable {
 public:
  explicit EmbeddingTable(StoredMatrix stored) : stored_(std::move(stored)) {}

  // Reads its tensors from the packed file, which has them (WriteEmbedding) and outlives this.
  // NOT_FOUND if it has not.
  absl::Status ReadFrom(const loader::PackedFile& file);

  // Checks rows while loading: an error at the first look-up would end the world. Of quantized rows
  // their values; of rows that stay in the packed file (`streamed`) its digests.
  absl::Status CheckRows(parallel::Range rows, bool streamed) const;

  // Fills this rank's part of the memory. From then on look-ups read the memory, which all ranks of
  // the host must have filled before the first one. RESOURCE_EXHAUSTED if there is no memory,
  // DATA_LOSS if a file cannot be read.
  absl::Status KeepInMemory(const EmbeddingMemory& memory);

  // out[t] = row ids[t], [tokens, hidden] in fp32. Of a quantized table, rows are dequantized here.
  absl::Status Lookup(kernels::Backend& backend, const int32_t* ids, int64_t tokens, int64_t hidden,
                      float* out);

  uint64_t held_bytes() const { return held_bytes_; }  // of memory, this rank's part

 private:
  absl::Status Fill(const std::vector<loader::CheckpointTensor>& tensors, parallel::Range part,
                    std::byte* memory) const;

  StoredMatrix stored_;
  const loader::PackedFile* packed_ = nullptr;  // what the tensors are read from; null: their files
  kernels::Buffer own_;
  const std::byte* rows_ = nullptr;  // of an unquantized table in memory
  uint64_t held_bytes_ = 0;
  std::vector<float> row_;         // of a quantized table
  std::vector<std::byte> staged_;  // rows of an unquantized one that are not in memory
  std::vector<int32_t> in_order_;
};

// The embedding's tensors, as they are stored, for ReadFrom.
absl::Status WriteEmbedding(const StoredMatrix& embedding, loader::PackedFileWriter& writer);

// INVALID_ARGUMENT where the file lacks a tensor of the embedding.
absl::Status CheckEmbedding(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                            const loader::PackedFile& file);

}  // namespace tandem::model
