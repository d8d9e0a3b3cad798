// Names, shapes and types of the tensors that a quantized module has in a checkpoint.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/quantization_config.h"

namespace tandem::loader {

// Of a module without ".weight"; empty where the scheme has no such tensor.
struct QuantizedNames {
  std::string weight, scale, zero, group_index;
};
QuantizedNames NamesOf(const QuantizedScheme& scheme, const Checkpoint& checkpoint,
                       const std::string& module);

// Groups along the columns.
int64_t GroupCount(const QuantizedScheme& scheme, int64_t columns);

// The tensors of `module`, a matrix [rows, columns], as the scheme has them; the
// checkpoint's headers choose between spellings.
std::vector<ExpectedTensor> QuantizedTensors(const QuantizedScheme& scheme,
                                             const Checkpoint& checkpoint,
                                             const std::string& module, int64_t rows,
                                             int64_t columns);

// Whether the checkpoint has the module's quantized tensor.
bool HasQuantized(const QuantizedScheme& scheme, const Checkpoint& checkpoint,
                  const std::string& module);

// The QuantFormat that holds it exactly, or none, from headers alone.
std::optional<kernels::QuantFormat> QuantizedFormat(const QuantizedScheme& scheme,
                                                    const Checkpoint& checkpoint,
                                                    const std::string& module, int64_t columns);

}  // namespace tandem::loader
