#include "runtime/loader/quantize_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/base/math.h"

namespace tandem::loader {
namespace {

using kernels::DType;
using kernels::QuantFormat;
using ::testing::HasSubstr;

struct Quantized {
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
  kernels::QuantizedRows rows() { return {codes.data(), scales.data(), zeros.data()}; }
};

int64_t Groups(const QuantFormat& format, int64_t columns) {
  return (columns + format.group_size - 1) / format.group_size;
}

Quantized Room(const QuantFormat& format, int64_t n, int64_t columns) {
  const int64_t groups = n * Groups(format, columns);
  return {std::vector<int8_t>(n * columns), std::vector<float>(groups),
          std::vector<uint8_t>(groups, SymmetricZero(format))};
}

Quantized Quantize(const std::vector<float>& x, int64_t columns, const QuantFormat& format,
                   ScaleMethod method, const float* importance = nullptr) {
  const int64_t n = static_cast<int64_t>(x.size()) / columns;
  Quantized q = Room(format, n, columns);
  const absl::Status status =
      QuantizeRows(x.data(), n, columns, format, importance, q.rows(), method);
  EXPECT_TRUE(status.ok()) << status;
  return q;
}

float Value(const Quantized& q, const QuantFormat& format, int64_t columns, int64_t row,
            int64_t column) {
  const int64_t group = row * Groups(format, columns) + column / format.group_size;
  return q.scales[group] * static_cast<float>(q.codes[row * columns + column] - q.zeros[group]);
}

// Of one group, in double.
double GroupError(const Quantized& q, const QuantFormat& format, const std::vector<float>& x,
                  int64_t columns, int64_t row, int64_t group, const float* importance) {
  double sum = 0;
  const int64_t begin = group * format.group_size;
  for (int64_t j = begin; j < std::min(begin + format.group_size, columns); ++j) {
    const double e = double{x[row * columns + j]} - double{Value(q, format, columns, row, j)};
    sum += (importance == nullptr ? 1.0 : importance[j]) * e * e;
  }
  return sum;
}

std::vector<QuantFormat> AllFormats() {
  std::vector<QuantFormat> formats;
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const int64_t group : {32, 64, 128, 20}) {
      formats.push_back({.bits = 8, .group_size = group, .scale_dtype = dtype});
      for (const bool zero_points : {false, true}) {
        formats.push_back(
            {.bits = 4, .group_size = group, .zero_points = zero_points, .scale_dtype = dtype});
      }
    }
  }
  return formats;
}

// Shapes of distributions that weights have, and that they should not have.
std::vector<std::vector<float>> Samples(int64_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.02f);
  std::student_t_distribution<float> heavy(3);
  std::uniform_real_distribution<float> uniform(0.5f, 1.0f);
  std::vector<std::vector<float>> samples(5, std::vector<float>(count));
  for (int64_t i = 0; i < count; ++i) {
    samples[0][i] = normal(random);
    samples[1][i] = heavy(random);
    samples[2][i] = uniform(random);
    samples[3][i] = i % 37 == 0 ? 1.0f : 1e-4f * normal(random);
    samples[4][i] = 1e-6f * normal(random);
  }
  return samples;
}

TEST(QuantizeRows, RtnIsPlainRounding) {
  const int64_t columns = 100;
  for (const QuantFormat& format : AllFormats()) {
    for (const std::vector<float>& x : Samples(7 * columns)) {
      const Quantized q = Quantize(x, columns, format, ScaleMethod::kRtn);
      for (int64_t row = 0; row < 7; ++row) {
        for (int64_t g = 0; g < Groups(format, columns); ++g) {
          const int64_t begin = g * format.group_size;
          const int64_t end = std::min(begin + format.group_size, columns);
          const float* values = x.data() + row * columns;
          float low = 0, high = 0;
          for (int64_t j = begin; j < end; ++j) {
            low = std::min(low, values[j]);
            high = std::max(high, values[j]);
          }
          const float most = std::max(high, -low);
          const float wanted =
              format.zero_points ? (high - low) / 15 : most / (format.bits == 8 ? 127 : 7.5f);
          const int64_t group = row * Groups(format, columns) + g;
          const float scale = q.scales[group];
          ASSERT_EQ(scale, StoredScale(format.scale_dtype, wanted));
          const int zero = q.zeros[group];
          if (format.zero_points) {
            ASSERT_EQ(zero, std::min(15.0f, std::nearbyintf(-low * (1.0f / scale))));
          }
          const int least = format.bits == 8 ? -127 : 0;
          const int greatest = format.bits == 8 ? 127 : 15;
          for (int64_t j = begin; j < end; ++j) {
            const int code = static_cast<int>(std::nearbyintf(values[j] * (1.0f / scale))) + zero;
            ASSERT_EQ(q.codes[row * columns + j], std::clamp(code, least, greatest));
            ASSERT_EQ(q.codes[row * columns + j], QuantizeValue(format, values[j], scale, zero));
          }
        }
      }
    }
  }
}

TEST(QuantizeRows, FloatsReachTo448) {
  const int64_t columns = 300;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const QuantFormat format = {
        .group_size = 128, .scale_dtype = dtype, .code_type = kernels::CodeType::kFloat8};
    for (const std::vector<float>& x : Samples(5 * columns)) {
      const Quantized q = Quantize(x, columns, format, ScaleMethod::kSearch);
      for (int64_t row = 0; row < 5; ++row) {
        for (int64_t j = 0; j < columns; ++j) {
          const int64_t group = row * 3 + j / 128;
          const auto begin = x.begin() + row * columns + j / 128 * 128;
          float most = 0;
          for (auto at = begin; at < begin + std::min<int64_t>(128, columns - j / 128 * 128);
               ++at) {
            most = std::max(most, std::fabs(*at));
          }
          const float scale = q.scales[group];
          ASSERT_EQ(scale, StoredScale(dtype, most / 448));
          const float value = x[row * columns + j];
          const float held =
              scale * kernels::E4m3ToFloat(static_cast<uint8_t>(q.codes[row * columns + j]));
          // A unit of 3 bits of mantissa, or of the smallest exponent; the largest may be cut off
          // where the scale was rounded down (BF16: by 2^-8 at most).
          ASSERT_LE(std::fabs(held - value),
                    std::max(std::fabs(value) * 0x1p-4, scale * 0x1p-10) * (1 + 1e-5));
        }
      }
    }
  }
  std::vector<float> bad(20, 1.0f);
  bad[13] = NAN;
  std::vector<int8_t> codes(20);
  float scale = 0;
  EXPECT_EQ(QuantizeRows(bad.data(), 1, 20, {.code_type = kernels::CodeType::kFloat8}, nullptr,
                         {.codes = codes.data(), .scales = &scale})
                .message(),
            "row 0 column 13: found nan, expected a finite number");
}

// Errors are compared in fp32 sums of at most 128 squares; those are off by at
// most 128 roundings of 2^-24, and so are the two sides here.
constexpr double kSumSlack = 1 + 2 * 130.0 / (1 << 24);

TEST(QuantizeRows, SearchIsNeverWorseThanRtn) {
  const int64_t columns = 300;
  std::vector<float> importance(columns);
  std::mt19937 random(3);
  for (float& w : importance) w = std::exp(std::normal_distribution<float>(0, 2)(random));
  for (const QuantFormat& format : AllFormats()) {
    for (const std::vector<float>& x : Samples(9 * columns)) {
      for (const bool weighted : {false, true}) {
        const float* weights = weighted ? importance.data() : nullptr;
        const Quantized rtn = Quantize(x, columns, format, ScaleMethod::kRtn, weights);
        const Quantized found = Quantize(x, columns, format, ScaleMethod::kSearch, weights);
        for (int64_t row = 0; row < 9; ++row) {
          for (int64_t g = 0; g < Groups(format, columns); ++g) {
            ASSERT_LE(GroupError(found, format, x, columns, row, g, weights),
                      GroupError(rtn, format, x, columns, row, g, weights) * kSumSlack)
                << format.bits << " bits, group " << format.group_size;
          }
        }
      }
    }
  }
}

double RelativeError(const std::vector<float>& x, int64_t columns, const QuantFormat& format,
                     ScaleMethod method, const float* searched_with, const float* importance) {
  const Quantized q = Quantize(x, columns, format, method, searched_with);
  double error = 0, square = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i) / columns;
    const int64_t column = static_cast<int64_t>(i) % columns;
    const double w = importance == nullptr ? 1.0 : importance[column];
    const double e = double{x[i]} - double{Value(q, format, columns, row, column)};
    error += w * e * e;
    square += w * double{x[i]} * double{x[i]};
  }
  return std::sqrt(error / square);
}

// Over normal values, what 4-bit codes are for. Rounding leaves 9.5, 10.3 and
// 11.1 % with groups of 32, 64, 128 (zero points: 8.1, 9.1, 10.0).
TEST(QuantizeRows, SearchPaysWithFourBits) {
  const int64_t columns = 1024;
  const std::vector<float> x = Samples(64 * columns)[0];
  const struct {
    int64_t group;
    bool zero_points;
    double most;
  } cases[] = {{32, false, 0.0825}, {64, false, 0.0915}, {128, false, 0.0985},
               {32, true, 0.0785},  {64, true, 0.0885},  {128, true, 0.0965}};
  for (const auto& c : cases) {
    const QuantFormat format = {.bits = 4, .group_size = c.group, .zero_points = c.zero_points};
    const double rtn = RelativeError(x, columns, format, ScaleMethod::kRtn, nullptr, nullptr);
    const double found = RelativeError(x, columns, format, ScaleMethod::kSearch, nullptr, nullptr);
    EXPECT_LT(found, c.most) << c.group << c.zero_points;
    EXPECT_LT(found, rtn * 0.97) << c.group << c.zero_points;
  }
}

TEST(QuantizeRows, ImportanceIsHeeded) {
  const int64_t columns = 512;
  const std::vector<float> x = Samples(32 * columns)[0];
  std::vector<float> importance(columns);
  for (int64_t j = 0; j < columns; ++j) importance[j] = j % 5 == 0 ? 50.0f : 0.1f;
  for (const bool zero_points : {false, true}) {
    const QuantFormat format = {.bits = 4, .group_size = 64, .zero_points = zero_points};
    const auto error = [&](const float* searched_with) {
      return RelativeError(x, columns, format, ScaleMethod::kSearch, searched_with,
                           importance.data());
    };
    EXPECT_LT(error(importance.data()), 0.9 * error(nullptr));
  }
}

// What a scale of 16 bits, a zero and codes that use the whole range stand for is found again.
TEST(QuantizeRows, RepresentableValuesAreExact) {
  std::mt19937 random(11);
  for (const QuantFormat& format : AllFormats()) {
    const int64_t columns = 3 * format.group_size + format.group_size / 2;
    const int64_t n = 5;
    std::vector<float> x(n * columns);
    const int least = format.bits == 8 ? -127 : 0;
    const int greatest = format.bits == 8 ? 127 : 15;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t begin = 0; begin < columns; begin += format.group_size) {
        const float scale = StoredScale(
            format.scale_dtype, std::uniform_real_distribution<float>(0.001f, 0.1f)(random));
        const int zero = format.zero_points ? std::uniform_int_distribution<int>(0, 15)(random)
                                            : SymmetricZero(format);
        const int64_t end = std::min(begin + format.group_size, columns);
        for (int64_t j = begin; j < end; ++j) {
          int code = std::uniform_int_distribution<int>(least, greatest)(random);
          if (j == begin) code = least;
          if (j == begin + 1) code = greatest;
          x[row * columns + j] = scale * static_cast<float>(code - zero);
        }
      }
    }
    const Quantized q = Quantize(x, columns, format, ScaleMethod::kSearch);
    for (int64_t i = 0; i < n * columns; ++i) {
      const float value = Value(q, format, columns, i / columns, i % columns);
      // In fp32 the product scale * code is rounded already, and so is the quotient of sums of up
      // to 128 terms that the scale comes from; the 16-bit types take that up in their rounding.
      const float slack = format.scale_dtype == DType::kF32 ? std::fabs(x[i]) * 0x1p-20f : 0.0f;
      ASSERT_NEAR(x[i], value, slack)
          << format.bits << " bits, group " << format.group_size << ", at " << i;
    }
  }
}

TEST(QuantizeRows, RowsDoNotDependOnEachOther) {
  const int64_t columns = 200, n = 13;
  const std::vector<float> x = Samples(n * columns)[1];
  for (const QuantFormat& format : AllFormats()) {
    const Quantized all = Quantize(x, columns, format, ScaleMethod::kSearch);
    for (int64_t row = 0; row < n; ++row) {
      const std::vector<float> one(x.begin() + row * columns, x.begin() + (row + 1) * columns);
      const Quantized alone = Quantize(one, columns, format, ScaleMethod::kSearch);
      const int64_t groups = Groups(format, columns);
      EXPECT_TRUE(std::equal(alone.codes.begin(), alone.codes.end(), &all.codes[row * columns]));
      EXPECT_TRUE(std::equal(alone.scales.begin(), alone.scales.end(), &all.scales[row * groups]));
      EXPECT_TRUE(std::equal(alone.zeros.begin(), alone.zeros.end(), &all.zeros[row * groups]));
    }
  }
}

TEST(QuantizeRows, ZerosStayZero) {
  for (const QuantFormat& format : AllFormats()) {
    const Quantized q = Quantize(std::vector<float>(70, 0.0f), 70, format, ScaleMethod::kSearch);
    for (int64_t j = 0; j < 70; ++j) EXPECT_EQ(Value(q, format, 70, 0, j), 0.0f);
  }
}

TEST(QuantizeRows, TinyValuesKeepAScale) {
  // 2^-26 over 127 is far below what F16 can hold; its least is 2^-24.
  const QuantFormat format = {.bits = 8, .group_size = 32, .scale_dtype = DType::kF16};
  const Quantized q = Quantize(std::vector<float>(32, 0x1p-23f), 32, format, ScaleMethod::kSearch);
  EXPECT_EQ(q.scales[0], 0x1p-24f);
  EXPECT_EQ(q.codes[5], 2);
  // Not even a subnormal has an infinite inverse.
  const float least = std::numeric_limits<float>::denorm_min();
  for (const QuantFormat& any : AllFormats()) {
    const Quantized tiny = Quantize({least, -least, 0, least}, 4, any, ScaleMethod::kSearch);
    EXPECT_EQ(Value(tiny, any, 4, 0, 2), 0.0f);
  }
}

TEST(QuantizeRows, RefusesWhatIsNotFinite) {
  const QuantFormat format = {.bits = 4, .group_size = 32};
  std::vector<float> x(128, 1.0f);
  x[64 + 33] = std::numeric_limits<float>::quiet_NaN();
  Quantized q = Room(format, 2, 64);
  const absl::Status status = QuantizeRows(x.data(), 2, 64, format, nullptr, q.rows());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("row 1 column 33: found nan, expected a finite number"));
}

TEST(QuantizeRows, RefusesWhatTheScaleCannotReach) {
  std::vector<float> x(32, 1e9f);
  QuantFormat format = {.bits = 8, .group_size = 32, .scale_dtype = DType::kF16};
  Quantized q = Room(format, 1, 32);
  const absl::Status status = QuantizeRows(x.data(), 1, 32, format, nullptr, q.rows());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("row 0 columns 0 to 31"));
  format.scale_dtype = DType::kBF16;
  EXPECT_TRUE(QuantizeRows(x.data(), 1, 32, format, nullptr, q.rows()).ok());
}

}  // namespace
}  // namespace tandem::loader
