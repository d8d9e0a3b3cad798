// Makes the file that the next start loads instead of packing weights again.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/packed_file.h"
#include "runtime/model/weight_format.h"

namespace tandem::model {

// What a packed file must have been made from to stand for this checkpoint: its identity and its
// files' times, the formats asked for, and the backend's layout.
std::string PackedKey(const loader::Checkpoint& checkpoint, const WeightRequests& weights,
                      const kernels::Backend& backend);

// All matrices of the model, whole. Takes them from the checkpoint, which serves nothing else
// afterwards. Holds one packed matrix at a time.
absl::Status WritePackedWeights(const loader::ModelConfig& config, loader::Checkpoint& checkpoint,
                                const WeightRequests& weights, kernels::Backend& backend,
                                loader::PackedFileWriter& writer);

}  // namespace tandem::model
