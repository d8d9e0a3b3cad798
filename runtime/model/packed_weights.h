// Writes the packed file, which the next start loads instead of packing the weights again.
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

// The key of a packed file for this checkpoint: the checkpoint's identity, samples of its content
// and its files' times, the formats asked for, the quantizer's version and the backend's layout.
// DATA_LOSS if the checkpoint cannot be read.
absl::StatusOr<std::string> PackedKey(const loader::Checkpoint& checkpoint,
                                      const WeightRequests& weights,
                                      const kernels::Backend& backend);

// The embedding as it is stored, and all other matrices of the model, whole. Takes them from the
// checkpoint, which serves nothing else afterwards. Holds one packed matrix at a time.
absl::Status WritePackedWeights(const loader::ModelConfig& config, loader::Checkpoint& checkpoint,
                                const WeightRequests& weights, kernels::Backend& backend,
                                loader::PackedFileWriter& writer);

// INVALID_ARGUMENT if a file with the right key lacks a matrix of the model, or has it with another
// number of bytes: loading would read outside of it. Takes nothing from the checkpoint.
absl::Status CheckPackedWeights(const loader::ModelConfig& config,
                                const loader::Checkpoint& checkpoint, const WeightRequests& weights,
                                const kernels::Backend& backend, const loader::PackedFile& file);

}  // namespace tandem::model
