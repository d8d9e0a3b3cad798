// Quantizes the matrices of a model and writes the weights of the new folder.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/base/thread_pool.h"
#include "runtime/loader/checkpoint.h"
#include "runtime/loader/model_config.h"
#include "runtime/quantize/checkpoint_writer.h"
#include "runtime/quantize/quantize_plan.h"

namespace tandem::quantize {

enum class QuantizeMethod : uint8_t {
  kRtn,     // plain rounding
  kSearch,  // scales searched by squared error; with calibration, weighted by each
            // column's mean squared input
  kGptq,    // with calibration: error compensation
};

struct QuantizeJob {
  const loader::ModelConfig& config;
  loader::Checkpoint& checkpoint;  // every tensor is taken
  const QuantizePlan& plan;
  QuantizeMethod method = QuantizeMethod::kSearch;
  // Token ids of calibration text; empty for kRtn, and for kSearch by squared
  // error alone.
  const std::vector<std::vector<int32_t>>& calibration;
  kernels::Backend& backend;  // for calibration; its memory is the host's
  kernels::ThreadPool& pool;
  // Called after each matrix with the source's bytes that are done so far.
  std::function<void(uint64_t bytes)> progress;
};

// Everything is appended to `writer`, which then still is to be closed. Head and
// embedding are never calibrated: with 8 bits they do not need it. Without
// calibration memory holds some rows of one matrix; with it, one layer in fp32
// and the activations of the text.
absl::Status QuantizeModel(const QuantizeJob& job, CheckpointWriter& writer);

}  // namespace tandem::quantize
