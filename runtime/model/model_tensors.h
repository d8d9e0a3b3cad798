// How a checkpoint stores the matrices of a model, and how ranks are to hold them.
#pragma once

#include <vector>

#include "parallel/shard_plan.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/loader/quantized_tensors.h"
#include "runtime/model/model_matrices.h"
#include "runtime/model/weight_format.h"

namespace tandem::model {

// How config.json says that the module is quantized. Null where the checkpoint stores it as
// elements, also where it has the plain tensor although config.json says otherwise.
const loader::QuantizedScheme* SchemeOf(const loader::ModelConfig& config,
                                        const loader::Checkpoint& checkpoint, const Module& module);

// Whether the module has a bias. A quantized module has one if the checkpoint does, whatever
// config.json says.
bool HasBias(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
             const Module& module);

// As the checkpoint stores the module, from headers alone.
WeightFormat StoredFormat(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                          const Module& module);

// As ranks hold the matrix, from headers alone. Codes that the device cannot multiply are held as
// elements.
WeightFormat HeldFormat(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint,
                        const HeldMatrix& matrix, const WeightRequests& requests,
                        const kernels::DeviceLayout& device);

// Every tensor that the model needs, as this checkpoint stores it. Without a checkpoint (null): as
// an unquantized one would.
std::vector<loader::ExpectedTensor> ExpectedTensors(const loader::ModelConfig& config,
                                                    const loader::Checkpoint* checkpoint);

// Whether the checkpoint has every tensor that the model needs, and config.json says of each matrix
// how it is stored. The other functions of this file need that for a checkpoint of quantized
// matrices. INVALID_ARGUMENT or NOT_FOUND names the tensor or the field.
absl::Status CheckTensors(const loader::ModelConfig& config, const loader::Checkpoint& checkpoint);

parallel::ModelShape ShapeOf(const loader::ModelConfig& config);

}  // namespace tandem::model
