// Products on a card against exact ones in double precision, in all formats, and the
// promise of equal bits where the tree of leaves is asked for.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/device_array.h"
#include "tests/support/random_values.h"

namespace tandem::kernels {
namespace {

using testing::DeviceArray;
using testing::RandomFloats;

std::unique_ptr<Backend> MakeBackend(bool deterministic) {
  // Scratch so small that products of many tokens go in parts.
  return *MakeCudaBackend({.deterministic = deterministic, .scratch_bytes = 8 << 10});
}

struct Case {
  std::string name;
  DType dtype = DType::kF32;
  std::optional<QuantFormat> quant;
};

std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {"F32", DType::kF32, {}}, {"F16", DType::kF16, {}}, {"BF16", DType::kBF16, {}}};
  for (const int bits : {8, 4}) {
    for (const int64_t group : {32, 128}) {
      for (const bool zeros : {false, true}) {
        const DType scales = group == 32 ? DType::kF16 : zeros ? DType::kF32 : DType::kBF16;
        cases.push_back(
            {absl::StrCat("I", bits, "G", group, zeros ? "Zeros" : ""), DType::kF32,
             QuantFormat{
                 .bits = bits, .group_size = group, .zero_points = zeros, .scale_dtype = scales}});
      }
    }
  }
  return cases;
}

// A whole layer [rows, columns] with its exact values.
class Layer {
 public:
  Layer(const Case& c, int64_t rows, int64_t columns) : case_(c), rows_(rows), columns_(columns) {
    std::mt19937 random(1);
    values_.resize(rows * columns);
    if (!c.quant) {
      const auto floats = RandomFloats(rows * columns, 2);
      elements_.resize(rows * columns * DTypeSize(c.dtype));
      for (size_t i = 0; i < floats.size(); ++i) {
        values_[i] = Store(c.dtype, floats[i], &elements_[i * DTypeSize(c.dtype)]);
      }
      return;
    }
    groups_ = (columns + c.quant->group_size - 1) / c.quant->group_size;
    scales_ = RandomFloats(rows * groups_, 3, 0.1f);
    for (float& scale : scales_) {
      std::byte stored[4];
      scale = Store(c.quant->scale_dtype, scale, stored);
    }
    zeros_.assign(rows * groups_, c.quant->bits == 4 ? 8 : 0);
    if (c.quant->zero_points) {
      for (uint8_t& zero : zeros_) zero = random() % (c.quant->bits == 4 ? 16 : 100);
    }
    for (int64_t i = 0; i < rows * columns; ++i) {
      codes_.push_back(c.quant->bits == 4 ? random() % 16 : static_cast<int>(random() % 256) - 128);
      const int64_t g = i / columns * groups_ + i % columns / c.quant->group_size;
      values_[i] = static_cast<double>(scales_[g]) * (codes_[i] - zeros_[g]);
    }
  }

  std::unique_ptr<LinearWeight> Pack(Backend& backend, int64_t leaf_size, LeafRange leaves) const {
    const LinearSpec spec = {.dtype = case_.dtype,
                             .quant = case_.quant,
                             .rows = rows_,
                             .global_columns = columns_,
                             .leaf_size = leaf_size,
                             .leaves = leaves};
    const int64_t first = spec.column_begin(), n = spec.columns();
    auto weight = [&]() -> absl::StatusOr<std::unique_ptr<LinearWeight>> {
      if (!case_.quant) {
        const int64_t size = DTypeSize(case_.dtype);
        return backend.PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* dst) {
          for (int64_t r = begin; r < end; ++r) {
            std::memcpy(dst + (r - begin) * n * size, &elements_[(r * columns_ + first) * size],
                        n * size);
          }
          return absl::OkStatus();
        });
      }
      const int64_t group = spec.group_begin(), groups = spec.group_end() - group;
      return backend.PackQuantized(spec, [&](int64_t begin, int64_t end, QuantizedRows dst) {
        for (int64_t r = begin; r < end; ++r) {
          std::copy_n(&codes_[r * columns_ + first], n, dst.codes + (r - begin) * n);
          std::copy_n(&scales_[r * groups_ + group], groups, dst.scales + (r - begin) * groups);
          if (case_.quant->zero_points) {
            std::copy_n(&zeros_[r * groups_ + group], groups, dst.zeros + (r - begin) * groups);
          }
        }
        return absl::OkStatus();
      });
    }();
    EXPECT_TRUE(weight.ok()) << weight.status();
    EXPECT_EQ((*weight)->bytes(), backend.PackedBytes(spec));
    return *std::move(weight);
  }

  double value(int64_t row, int64_t column) const { return values_[row * columns_ + column]; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

 private:
  static double Store(DType dtype, float value, std::byte* out) {
    if (dtype == DType::kF32) {
      std::memcpy(out, &value, 4);
      return value;
    }
    const uint16_t bits = dtype == DType::kF16 ? FloatToF16(value) : FloatToBf16(value);
    std::memcpy(out, &bits, 2);
    return dtype == DType::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
  }

  Case case_;
  int64_t rows_, columns_, groups_ = 0;
  std::vector<std::byte> elements_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<uint8_t> zeros_;
  std::vector<double> values_;
};

class CudaLinear : public ::testing::TestWithParam<Case> {};

// x is [tokens, local columns]; y holds the sums of `ranges` of columns, in order.
void CheckSums(const Layer& layer, const std::vector<float>& x, int64_t tokens,
               const std::vector<LeafRange>& ranges, int64_t first, int64_t n, double rounding,
               const std::vector<float>& bias, const std::vector<float>& y) {
  ASSERT_EQ(y.size(), ranges.size() * tokens * layer.rows());
  for (size_t s = 0; s < ranges.size(); ++s) {
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < layer.rows(); ++r) {
        double sum = 0, magnitude = 0;
        for (int64_t k = ranges[s].begin; k < ranges[s].end; ++k) {
          const double product = layer.value(r, k) * x[t * n + k - first];
          sum += product;
          magnitude += std::abs(product);
        }
        if (!bias.empty()) {
          sum += bias[r];
          magnitude += std::abs(bias[r]);
        }
        // As many roundings of 2^-24 as terms, and those of the factors. Codes are summed
        // with their offset first: (16 + code) against (code - zero) makes terms at most
        // 32 times as large on average.
        const double terms = static_cast<double>(ranges[s].size()) + 8;
        const double bound = magnitude * (32 * terms * 0x1p-24 + rounding) + 1e-12;
        ASSERT_NEAR(y[(s * tokens + t) * layer.rows() + r], sum, bound)
            << "row " << r << " token " << t << " subtree " << s;
      }
    }
  }
}

TEST_P(CudaLinear, IsCloseToExact) {
  struct Shape {
    int64_t rows, columns, leaf;
  };
  for (const Shape& shape :
       {Shape{5, 256, 128}, {3, 300, 128}, {2, 172, 32}, {4, 96, 24}, {3, 1000, 128}}) {
    const Layer layer(GetParam(), shape.rows, shape.columns);
    const int64_t leaves = (shape.columns + shape.leaf - 1) / shape.leaf;
    const auto bias = RandomFloats(shape.rows, 7);
    for (const bool deterministic : {false, true}) {
      const auto backend = MakeBackend(deterministic);
      for (const LeafRange owned : {LeafRange{0, leaves}, {1, leaves}, {0, 1}, {1, 1}}) {
        const auto weight = layer.Pack(*backend, shape.leaf, owned);
        const int64_t first = weight->spec.column_begin(), n = weight->spec.columns();
        std::vector<LeafRange> ranges;
        if (deterministic) {
          for (const LeafRange& node : OwnedSubtrees(leaves, owned)) {
            ranges.push_back(
                {node.begin * shape.leaf, std::min(node.end * shape.leaf, shape.columns)});
          }
        } else {
          ranges.push_back({first, first + n});
        }
        const bool whole = owned == LeafRange{0, leaves};
        for (const int64_t tokens : {1, 2, 3, 7, 9, 40}) {
          const auto x = RandomFloats(tokens * n, 5);
          const DeviceArray<float> dx(*backend, x), db(*backend, bias);
          const DeviceArray<float> dy(*backend,
                                      std::vector<float>(ranges.size() * tokens * shape.rows, NAN));
          backend->Linear(*weight, dx.data(), tokens, whole ? db.data() : nullptr, dy.data());
          const auto y = dy.ToHost();
          ASSERT_TRUE(backend->status().ok()) << backend->status();
          // Many tokens: activations and quantized weights are rounded to BF16 (or FP16,
          // which is finer), each by 2^-9 at most.
          const double rounding = deterministic || tokens < 10 ? 0 : 0x1p-8;
          CheckSums(layer, x, tokens, ranges, first, n, rounding,
                    whole ? bias : std::vector<float>(), y);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(CudaLinear, TreesGiveTheSameBitsAtAnyCut) {
  const auto backend = MakeBackend(true);
  const int64_t rows = 6, columns = 7 * 64 - 20, leaf = 64, leaves = 7, tokens = 5;
  const Layer layer(GetParam(), rows, columns);
  const auto x = RandomFloats(tokens * columns, 5);
  const auto product = [&](LeafRange owned, const std::vector<float>& values, int64_t count) {
    const auto weight = layer.Pack(*backend, leaf, owned);
    const DeviceArray<float> dx(*backend, values);
    const DeviceArray<float> dy(*backend, weight->schedule.subtrees * count * rows);
    backend->Linear(*weight, dx.data(), count, nullptr, dy.data());
    return dy.ToHost();
  };
  const auto whole = product({0, leaves}, x, tokens);
  for (const std::vector<int64_t>& cuts :
       {std::vector<int64_t>{0, 4, 7}, {0, 3, 7}, {0, 2, 5, 7}, {0, 1, 2, 6, 7}, {0, 0, 7}}) {
    std::vector<LeafRange> nodes;
    std::vector<std::vector<float>> parts;
    std::vector<const float*> values;
    for (size_t r = 0; r + 1 < cuts.size(); ++r) {
      const LeafRange owned = {cuts[r], cuts[r + 1]};
      const int64_t first = owned.begin * leaf;
      const int64_t n = std::min(owned.end * leaf, columns) - first;
      std::vector<float> local;
      for (int64_t t = 0; t < tokens; ++t) {
        local.insert(local.end(), &x[t * columns + first], &x[t * columns + first] + n);
      }
      parts.push_back(product(owned, local, tokens));
      const auto subtrees = OwnedSubtrees(leaves, owned);
      nodes.insert(nodes.end(), subtrees.begin(), subtrees.end());
    }
    for (const auto& part : parts) {
      for (size_t s = 0; s < part.size() / (tokens * rows); ++s) {
        values.push_back(&part[s * tokens * rows]);
      }
    }
    std::vector<float> sum(tokens * rows);
    FinishTree({0, leaves}, nodes, values, tokens * rows, sum.data());
    EXPECT_EQ(sum, whole);
  }
  // Nor do other tokens matter.
  for (int64_t t = 0; t < tokens; ++t) {
    const std::vector<float> one(&x[t * columns], &x[t * columns] + columns);
    EXPECT_EQ(product({0, leaves}, one, 1),
              std::vector<float>(&whole[t * rows], &whole[t * rows] + rows));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaLinear, ::testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::kernels
