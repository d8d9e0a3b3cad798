// Makes the file that the next start loads instead of packing weights again.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/packed_file.h"
#include "runtime/model/weight_format.h"

namespace tandem::model {

// What a packed file must have been made from to stand for this checkpoint: its identity, samples
// of its content and its files' times, the formats asked for, the quantizer and the backend's
// layout. DATA_LOSS where the checkpoint cannot be read.
absl::StatusOr<std::string> PackedKey(const loader::Checkpoint& checkpoint,
                                      const WeightRequests& weights,
                                      const kernels::Backend& backend);

// All matrices of the model, whole. Takes them from the checkpoint, which serves nothing else
// afterwards. Holds one packed matrix at a time.
absl::Status WritePackedWeights(const loader::ModelConfig& config, loader::Checkpoint& checkpoint,
                                const WeightRequests& weights, kernels::Backend& backend,
                                loader::PackedFileWriter& writer);

// INVALID_ARGUMENT where a file of the right key lacks a matrix of the model or has another number
// of bytes of it: loading would read beside it. Takes nothing from the checkpoint.
absl::Status CheckPackedWeights(const loader::ModelConfig& config,
                                const loader::Checkpoint& checkpoint, const WeightRequests& weights,
                                const kernels::Backend& backend, const loader::PackedFile& file);

}  // namespace tandem::model
