#include "kernels/ref/ref_backend.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "kernels/host_backend.h"
#include "kernels/ref/ref_attention.h"

namespace tandem::kernels {
namespace {

constexpr int64_t kLanes = 16;  // logical lanes of a reduction

// base may be unaligned: an embedding table may start anywhere in its file.
float LoadElement(const void* base, DType dtype, int64_t index) {
  const auto* element = static_cast<const std::byte*>(base) + index * DTypeSize(dtype);
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, element, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, element, sizeof(bits));
  return dtype == DType::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
}

void StoreElement(void* base, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(base)[index] = value;
      return;
    case DType::kF16:
      static_cast<uint16_t*>(base)[index] = FloatToF16(value);
      return;
    case DType::kBF16:
      static_cast<uint16_t*>(base)[index] = FloatToBf16(value);
      return;
  }
}

float FoldLanes(float* lanes) {
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// 1 / sqrt(mean of squares + epsilon)
float InverseRms(const float* x, int64_t n, float epsilon) {
  float lanes[kLanes] = {};
  for (int64_t j = 0; j < n; ++j) lanes[j % kLanes] = std::fma(x[j], x[j], lanes[j % kLanes]);
  const float mean = FoldLanes(lanes) / static_cast<float>(n);
  return 1.0f / std::sqrt(mean + epsilon);
}

class RefLinearWeight : public LinearWeight {
 public:
  RefLinearWeight(const LinearSpec& spec, Buffer data)
      : LinearWeight(spec), data_(std::move(data)) {}
  size_t bytes() const override { return data_.bytes(); }
  const void* data() const { return data_.data(); }

 private:
  Buffer data_;  // [rows, columns]
};

// As the source gives it: codes, scales rounded to the format's type, zeros.
class RefQuantizedWeight : public LinearWeight {
 public:
  RefQuantizedWeight(const LinearSpec& spec) : LinearWeight(spec) {
    const int64_t groups = spec.group_end() - spec.group_begin();
    codes.resize(spec.rows * spec.columns());
    scales.resize(spec.rows * groups);
    zeros.assign(spec.rows * groups, spec.quant->bits == 4 ? 8 : 0);
  }
  size_t bytes() const override { return codes.size() + 5 * scales.size(); }

  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
};

float RoundTo(DType dtype, float value) {
  float stored = 0;
  StoreElement(&stored, dtype, 0, value);
  return LoadElement(&stored, dtype, 0);
}

// One activation group: codes [columns] and their scale.
float QuantizeActivations(const float* x, int64_t columns, int8_t* codes) {
  uint32_t most = 0;  // magnitudes order as their bits do, NaN last
  for (int64_t k = 0; k < columns; ++k) {
    most = std::max(most, std::bit_cast<uint32_t>(x[k]) & 0x7fffffffu);
  }
  const ActivationScale scale = MakeActivationScale(most);
  for (int64_t k = 0; k < columns; ++k) {
    codes[k] = scale.inverse == 0 ? 0 : QuantizeActivation(x[k], scale.inverse);
  }
  return scale.scale;
}

// y[subtree, t, r] from leaf(t, r, column_begin, column_end), leaves along the tree.
template <typename Leaf>
void SumTree(const LinearWeight& weight, int64_t tokens, const float* bias, float* y,
             const Leaf& leaf) {
  TANDEM_CHECK(bias == nullptr || weight.schedule.subtrees == 1);
  const int64_t rows = weight.spec.rows;
  std::vector<float> stack;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      int64_t subtree = 0;
      stack.clear();
      for (const LeafStep& step : weight.schedule.steps) {
        stack.push_back(leaf(t, r, step.column_begin, step.column_end));
        for (int32_t m = 0; m < step.merges; ++m) {
          const float right = stack.back();
          stack.pop_back();
          stack.back() += right;
        }
        if (step.emit) {
          y[(subtree++ * tokens + t) * rows + r] = stack.back();
          stack.pop_back();
        }
      }
      if (bias != nullptr) y[t * rows + r] += bias[r];
    }
  }
}

// x: the token's local columns; [begin, end) local too.
float QuantizedLeaf(const RefQuantizedWeight& w, const float* x, int64_t row, int64_t begin,
                    int64_t end) {
  const LinearSpec& spec = w.spec;
  const int64_t group = spec.quant->group_size;
  const int64_t run = std::gcd(group, spec.leaf_size);
  const int64_t groups = spec.group_end() - spec.group_begin();
  std::vector<int8_t> codes(run);
  float sum = 0;
  for (int64_t k = begin; k < end; k += run) {
    const int64_t n = std::min(run, end - k);
    const float x_scale = QuantizeActivations(x + k, n, codes.data());
    const int64_t g = (spec.column_begin() + k) / group - spec.group_begin();
    const int32_t zero = w.zeros[row * groups + g];
    int32_t dot = 0;
    for (int64_t i = 0; i < n; ++i) {
      dot += (w.codes[row * spec.columns() + k + i] - zero) * codes[i];
    }
    sum = std::fma(static_cast<float>(dot), w.scales[row * groups + g] * x_scale, sum);
  }
  return sum;
}

class RefBackend : public HostBackend {
 public:
  absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                           RowReader read_rows) override {
    TANDEM_ASSIGN_OR_RETURN(Buffer data, AllocateHost(PackedBytes(spec)));
    if (data.bytes() > 0) {
      TANDEM_RETURN_IF_ERROR(read_rows(0, spec.rows, data.as<std::byte>()));
    }
    return std::make_unique<RefLinearWeight>(spec, std::move(data));
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(
      const LinearSpec& spec, QuantizedRowReader read_rows) override {
    auto weight = std::make_unique<RefQuantizedWeight>(spec);
    if (!weight->codes.empty()) {
      TANDEM_RETURN_IF_ERROR(read_rows(0, spec.rows,
                                       {.codes = weight->codes.data(),
                                        .scales = weight->scales.data(),
                                        .zeros = weight->zeros.data()}));
    }
    for (float& scale : weight->scales) scale = RoundTo(spec.quant->scale_dtype, scale);
    return weight;
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> CopyPackedRows(
      const LinearSpec&, std::span<const PackedRows>) override {
    return absl::UnimplementedError("the scalar reference keeps no packed weights");
  }

  size_t PackedBytes(const LinearSpec& spec) const override {
    if (spec.quant.has_value()) return RefQuantizedWeight(spec).bytes();
    return spec.rows * spec.columns() * DTypeSize(spec.dtype);
  }

  void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
              float* y) override {
    if (weight.spec.quant.has_value()) {
      const auto& w = static_cast<const RefQuantizedWeight&>(weight);
      SumTree(w, tokens, bias, y, [&](int64_t t, int64_t r, int64_t begin, int64_t end) {
        return QuantizedLeaf(w, x + t * w.spec.columns(), r, begin, end);
      });
      return;
    }
    const auto& w = static_cast<const RefLinearWeight&>(weight);
    const int64_t columns = w.spec.columns();
    SumTree(w, tokens, bias, y, [&](int64_t t, int64_t r, int64_t begin, int64_t end) {
      const auto element = [&](int64_t k) {
        return LoadElement(w.data(), w.spec.dtype, r * columns + k);
      };
      float sum = 0;
      if (w.spec.dtype == DType::kBF16) {
        const auto multiply_add = [&](int64_t k) {
          const bool padding = k == end;
          sum = MulAddFlushed(padding ? 0.0f : RoundTo(DType::kBF16, x[t * columns + k]),
                              padding ? 0.0f : element(k), sum);
        };
        for (int64_t k = begin; k < end; k += 2) {
          multiply_add(k + 1);
          multiply_add(k);
        }
        return sum;
      }
      for (int64_t k = begin; k < end; ++k) sum = std::fma(element(k), x[t * columns + k], sum);
      return sum;
    });
  }

  void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                   int64_t tokens, float* out) override {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t j = 0; j < hidden; ++j) {
        out[t * hidden + j] = LoadElement(host_table, dtype, ids[t] * hidden + j);
      }
    }
  }

  void AddRmsNorm(const float* delta, const float* delta_bias, float* residual, const float* weight,
                  float epsilon, int64_t tokens, int64_t hidden, float* out) override {
    for (int64_t t = 0; t < tokens; ++t) {
      float* x = residual + t * hidden;
      if (delta != nullptr) {
        for (int64_t j = 0; j < hidden; ++j) {
          float d = delta[t * hidden + j];
          if (delta_bias != nullptr) d += delta_bias[j];
          x[j] += d;
        }
      }
      const float inverse = InverseRms(x, hidden, epsilon);
      for (int64_t j = 0; j < hidden; ++j) out[t * hidden + j] = x[j] * inverse * weight[j];
    }
  }

  void RopeAngles(const int32_t* positions, int64_t tokens, const float* inverse_frequencies,
                  int64_t half, float attention_factor, float* cos, float* sin) override {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        float s, c;
        SinCosF32(static_cast<float>(positions[t]) * inverse_frequencies[i], s, c);
        cos[t * half + i] = c * attention_factor;
        sin[t * half + i] = s * attention_factor;
      }
    }
  }

  void RopeAndCache(const RopeAndCacheArgs& args) override { RefRopeAndCache(args); }
  void PagedAttention(const PagedAttentionArgs& args) override { RefPagedAttention(args); }

  void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) override {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* gate = gate_up + t * 2 * columns;
      for (int64_t i = 0; i < columns; ++i) {
        const float g = gate[i];
        out[t * columns + i] = g / (1.0f + ExpF32(-g)) * gate[columns + i];
      }
    }
  }
};

}  // namespace

std::unique_ptr<Backend> MakeRefBackend() { return std::make_unique<RefBackend>(); }

}  // namespace tandem::kernels
