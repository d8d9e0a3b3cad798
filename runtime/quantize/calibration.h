// Computes a model over calibration text one layer at a time: all text goes through a layer before
// the next one begins. So each matrix is quantized with the inputs that the quantized matrices
// before it produce. Holds one layer's matrices and the activations of all the text.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/loader/model_config.h"
#include "runtime/model/kv_cache.h"
#include "runtime/model/model_matrices.h"
#include "runtime/quantize/source_weights.h"

namespace tandem::quantize {

// Matrices with the same input, and that input over all the text.
struct CalibrationStage {
  std::vector<std::string> modules;  // "model.layers.0.self_attn.q_proj", ...
  const float* inputs = nullptr;     // [tokens, columns], on the host
  int64_t tokens = 0;
  int64_t columns = 0;
};

// Returns the stage's merged matrix, the modules' rows one after the other: the rest of the pass
// computes with it.
using StageVisitor = absl::FunctionRef<absl::StatusOr<std::unique_ptr<kernels::LinearWeight>>(
    const CalibrationStage& stage)>;

class Calibration {
 public:
  // sequences are token ids; each is computed by itself from position 0. The backend's memory is
  // the host's. All references outlive the object.
  static absl::StatusOr<std::unique_ptr<Calibration>> Create(
      const loader::ModelConfig& config, const SourceWeights& weights, kernels::Backend& backend,
      const std::vector<std::vector<int32_t>>& sequences);

  // Stages of layer `index`, which must follow the one before: q, k and v; o; gate
  // and up; down.
  absl::Status RunLayer(int64_t index, StageVisitor visit);

  // The residual stream after the layers so far, [tokens, hidden].
  const std::vector<float>& residual() const { return residual_; }

 private:
  struct Sequence {
    int64_t begin = 0;  // of its tokens among all
    int64_t tokens = 0;
  };

  Calibration(const loader::ModelConfig& config, const SourceWeights& weights,
              kernels::Backend& backend)
      : config_(config), weights_(weights), backend_(backend) {}

  // The vectors of one layer, fp32.
  struct LayerVectors {
    std::map<model::NormRole, std::vector<float>> norms;
    std::map<model::MatrixRole, std::vector<float>>
        biases;  // of merged modules, in order; or empty

    const std::vector<float>& norm(model::NormRole role) const { return norms.at(role); }
    const float* bias(model::MatrixRole role) const {
      const std::vector<float>& values = biases.at(role);
      return values.empty() ? nullptr : values.data();
    }
  };
  absl::StatusOr<LayerVectors> ReadVectors(const std::vector<model::HeldMatrix>& matrices) const;

  // The matrix applied to a sequence, and what follows until the next matrix.
  absl::Status Multiply(const Sequence& s, const model::HeldMatrix& matrix,
                        const kernels::LinearWeight& weight, const LayerVectors& vectors);
  absl::Status Attend(const Sequence& sequence, const LayerVectors& vectors, float* qkv,
                      float* out);
  // Adds delta (or nothing, where null) to the sequence's residual stream and norms that.
  void AddAndNorm(const Sequence& s, const float* delta, const std::vector<float>& norm);

  const loader::ModelConfig& config_;
  const SourceWeights& weights_;
  kernels::Backend& backend_;
  std::vector<Sequence> sequences_;
  int64_t tokens_ = 0;           // of all sequences
  int64_t longest_ = 0;          // tokens of one
  std::vector<float> residual_;  // [tokens, hidden]
  std::vector<float> normed_;    // [tokens, hidden]
  std::vector<float> inner_;     // [tokens, columns of the output or down projection]
  std::vector<float> wide_;      // [longest, rows of qkv or of gate and up]
  std::vector<float> delta_;     // [longest, hidden]
  std::vector<float> inverse_frequencies_;
  model::KvCache cache_;  // of one sequence and one layer
};

}  // namespace tandem::quantize
