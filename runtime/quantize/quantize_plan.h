// Decides how `tandem quantize` stores each matrix of a model, from the configuration and headers
// alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/quantize/safetensors_writer.h"

namespace tandem::quantize {

struct QuantizeFormat {
  int bits = 4;  // 4 or 8
  int64_t group_size = 32;
  bool zero_points = false;          // with 4 bits
  std::optional<int> head_bits = 8;  // of head and embedding; none: as stored
};

// A matrix [rows, columns] that is quantized.
struct QuantizedModule {
  std::string name;  // without ".weight"
  int64_t rows = 0;
  int64_t columns = 0;
  kernels::QuantFormat format;
};

struct QuantizePlan {
  std::vector<QuantizedModule> modules;  // in the order of the forward pass
  std::vector<std::string> copied;       // tensors that stay as they are
  std::vector<OutputTensor> tensors;     // of the new folder
  nlohmann::json config;                 // its quantization_config
  uint64_t source_bytes = 0;             // of what is read

  uint64_t bytes() const;  // of the tensors
  const QuantizedModule* Find(std::string_view name) const;
};

// Scales have the type of the matrix they belong to. A group must divide its
// matrix's columns, as compressed-tensors asks: where group_size does not, the
// greatest common divisor is taken. INVALID_ARGUMENT where that is below 8, or
// for tensors that are missing or of the wrong shape.
absl::StatusOr<QuantizePlan> PlanQuantization(const loader::ModelConfig& config,
                                              const loader::Checkpoint& checkpoint,
                                              const QuantizeFormat& format);

}  // namespace tandem::quantize
