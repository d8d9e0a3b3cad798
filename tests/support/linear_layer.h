// Linear layers in every format of a GPU, with their exact values: for tests of products.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "tests/support/random_values.h"

namespace tandem::testing {

using kernels::Backend;
using kernels::DType;
using kernels::LeafRange;
using kernels::LinearSpec;
using kernels::LinearWeight;
using kernels::QuantFormat;
using kernels::QuantizedRows;

struct LinearCase {
  std::string name;
  DType dtype = DType::kF32;
  std::optional<QuantFormat> quant;
};

inline std::vector<LinearCase> LinearCases() {
  std::vector<LinearCase> cases = {
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
  for (const int64_t group : {32, 128}) {
    cases.push_back({absl::StrCat("F8G", group), DType::kF32,
                     QuantFormat{.group_size = group,
                                 .scale_dtype = group == 32 ? DType::kBF16 : DType::kF32,
                                 .code_type = kernels::CodeType::kFloat8}});
  }
  return cases;
}

// A whole layer [rows, columns] with its exact values.
class LinearLayer {
 public:
  LinearLayer(const LinearCase& c, int64_t rows, int64_t columns)
      : case_(c), rows_(rows), columns_(columns) {
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
      const bool is_float = c.quant->code_type == kernels::CodeType::kFloat8;
      if (is_float && (codes_.back() & 0x7f) == 0x7f) codes_.back() = 0;  // no number
      const int64_t g = i / columns * groups_ + i % columns / c.quant->group_size;
      const double code = is_float ? kernels::E4m3ToFloat(static_cast<uint8_t>(codes_[i]))
                                   : static_cast<float>(codes_[i] - zeros_[g]);
      values_[i] = static_cast<double>(scales_[g]) * code;
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
    const uint16_t bits =
        dtype == DType::kF16 ? kernels::FloatToF16(value) : kernels::FloatToBf16(value);
    std::memcpy(out, &bits, 2);
    return dtype == DType::kF16 ? kernels::F16ToFloat(bits) : kernels::Bf16ToFloat(bits);
  }

  LinearCase case_;
  int64_t rows_, columns_, groups_ = 0;
  std::vector<std::byte> elements_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<uint8_t> zeros_;
  std::vector<double> values_;
};

struct LinearTolerance {
  double rounding = 0;  // of the factors
  // How much larger terms may be while they are summed: (16 + code) against (code - zero) makes
  // them at most 32 times as large on average.
  double terms = 32;
};

// x is [tokens, local columns]; y holds the sums of `ranges` of columns, in order.
inline void CheckLinear(const LinearLayer& layer, const std::vector<float>& x, int64_t tokens,
                        const std::vector<LeafRange>& ranges, int64_t first, int64_t n,
                        const LinearTolerance& tolerance, const std::vector<float>& bias,
                        const std::vector<float>& y) {
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
        // As many roundings of 2^-24 as terms, and those of the factors.
        const double terms = static_cast<double>(ranges[s].size()) + 8;
        const double bound =
            magnitude * (tolerance.terms * terms * 0x1p-24 + tolerance.rounding) + 1e-12;
        ASSERT_NEAR(y[(s * tokens + t) * layer.rows() + r], sum, bound)
            << "row " << r << " token " << t << " subtree " << s;
      }
    }
  }
}

}  // namespace tandem::testing
