#include "runtime/quantize/error_compensation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cpu/cpu_backend.h"
#include "runtime/loader/quantize_rows.h"

namespace tandem::quantize {
namespace {

using kernels::QuantFormat;

std::vector<float> Normal(int64_t count, uint32_t seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

// Inputs whose columns depend on each other, as those of real layers do.
std::vector<float> CorrelatedInputs(int64_t tokens, int64_t columns) {
  const int64_t hidden = columns / 4;
  const std::vector<float> causes = Normal(tokens * hidden, 1);
  const std::vector<float> mix = Normal(hidden * columns, 2);
  std::vector<float> x = Normal(tokens * columns, 3, 0.5f);
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t h = 0; h < hidden; ++h) {
        x[t * columns + j] += causes[t * hidden + h] * mix[h * columns + j] * 0.2f;
      }
    }
  }
  return x;
}

struct Machine {
  explicit Machine(int threads = 2)
      : backend(*kernels::MakeCpuBackend("auto", {.threads = threads})), pool(threads) {}
  std::unique_ptr<kernels::Backend> backend;
  kernels::ThreadPool pool;

  std::vector<float> Products(const std::vector<float>& x, int64_t columns) {
    InputProducts products(*backend, columns);
    EXPECT_TRUE(products.Add(x.data(), static_cast<int64_t>(x.size()) / columns).ok());
    return products.matrix();
  }
};

struct Codes {
  Codes(int64_t rows, int64_t columns, const QuantFormat& format)
      : groups((columns + format.group_size - 1) / format.group_size),
        codes(rows * columns),
        scales(rows * groups),
        zeros(rows * groups, loader::SymmetricZero(format)) {}
  kernels::QuantizedRows view() { return {codes.data(), scales.data(), zeros.data()}; }
  float Value(const QuantFormat& format, int64_t columns, int64_t row, int64_t column) const {
    const int64_t group = row * groups + column / format.group_size;
    return scales[group] * static_cast<float>(codes[row * columns + column] - zeros[group]);
  }
  int64_t groups;
  std::vector<int8_t> codes;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;
};

// |(w - q) x^T|^2 over all rows and tokens.
double OutputError(const std::vector<float>& w, const Codes& codes, const QuantFormat& format,
                   const std::vector<float>& x, int64_t rows, int64_t columns) {
  double sum = 0;
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> error(columns);
    for (int64_t j = 0; j < columns; ++j) {
      error[j] = double{w[row * columns + j]} - double{codes.Value(format, columns, row, j)};
    }
    for (size_t t = 0; t < x.size() / columns; ++t) {
      double dot = 0;
      for (int64_t j = 0; j < columns; ++j) dot += error[j] * double{x[t * columns + j]};
      sum += dot * dot;
    }
  }
  return sum;
}

TEST(InputProducts, UpperTriangleOfXtX) {
  Machine machine;
  const int64_t tokens = 1500, columns = 70;  // more than one chunk of tokens
  const std::vector<float> x = Normal(tokens * columns, 4);
  const std::vector<float> h = machine.Products(x, columns);
  for (int64_t i = 0; i < columns; ++i) {
    for (int64_t j = i; j < columns; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const double term = double{x[t * columns + i]} * double{x[t * columns + j]};
        sum += term;
        magnitude += std::abs(term);
      }
      // Leaves of 128 terms, a tree of 4 levels, two chunks: 134 roundings at most.
      EXPECT_NEAR(h[i * columns + j], sum, magnitude * 134 / (1 << 24)) << i << ", " << j;
    }
  }
}

// What the algorithm is to do, in double and without blocks.
std::vector<int8_t> Reference(const std::vector<float>& w, const Codes& scales,
                              const QuantFormat& format, const std::vector<float>& h, int64_t rows,
                              int64_t columns, double damping) {
  double mean = 0;
  for (int64_t j = 0; j < columns; ++j) mean += h[j * columns + j];
  mean /= static_cast<double>(columns);
  std::vector<double> r(h.begin(), h.end());
  for (int64_t j = 0; j < columns; ++j) r[j * columns + j] += damping * mean;
  for (int64_t j = columns - 1; j >= 0; --j) {
    const double pivot = std::sqrt(r[j * columns + j]);
    for (int64_t i = 0; i <= j; ++i) r[i * columns + j] /= pivot;
    for (int64_t i = 0; i < j; ++i) {
      for (int64_t k = i; k < j; ++k) {
        r[i * columns + k] -= r[i * columns + j] * r[k * columns + j];
      }
    }
  }
  std::vector<int8_t> codes(rows * columns);
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<double> error(columns);
    for (int64_t m = 0; m < columns; ++m) {
      double shift = 0;
      for (int64_t j = 0; j < m; ++j) shift += error[j] * r[j * columns + m];
      const int64_t group = row * scales.groups + m / format.group_size;
      const double wanted = double{w[row * columns + m]} + shift / r[m * columns + m];
      codes[row * columns + m] = loader::QuantizeValue(format, static_cast<float>(wanted),
                                                       scales.scales[group], scales.zeros[group]);
      error[m] = double{w[row * columns + m]} -
                 double{scales.scales[group]} *
                     (codes[row * columns + m] - double{static_cast<float>(scales.zeros[group])});
    }
  }
  return codes;
}

// Several blocks of columns. Where the wanted value lies next to the middle of two
// codes, fp32 and double may fall to different sides, and the row goes on from
// there in another way; so nearly all rows must agree to the last code.
TEST(ErrorCompensation, MatchesTheAlgorithmWithoutBlocks) {
  Machine machine;
  const int64_t columns = 600, rows = 48;
  const std::vector<float> x = CorrelatedInputs(900, columns);
  const std::vector<float> w = Normal(rows * columns, 5, 0.02f);
  const std::vector<float> h = machine.Products(x, columns);
  for (const bool zero_points : {false, true}) {
    const QuantFormat format = {.bits = 4, .group_size = 40, .zero_points = zero_points};
    const auto compensation = ErrorCompensation::Create(*machine.backend, machine.pool, h, columns);
    ASSERT_TRUE(compensation.ok()) << compensation.status();
    Codes codes(rows, columns, format);
    ASSERT_TRUE((*compensation)->Quantize(w.data(), rows, format, codes.view()).ok());
    const std::vector<int8_t> expected = Reference(w, codes, format, h, rows, columns, 0.01);
    int equal_rows = 0;
    for (int64_t row = 0; row < rows; ++row) {
      equal_rows += std::equal(&codes.codes[row * columns], &codes.codes[row * columns] + columns,
                               &expected[row * columns]);
    }
    EXPECT_GE(equal_rows, rows * 3 / 4);
  }
}

TEST(ErrorCompensation, OutputsAreNearerThanWithSearch) {
  Machine machine;
  const int64_t columns = 384, rows = 40;
  const std::vector<float> x = CorrelatedInputs(1000, columns);
  const std::vector<float> w = Normal(rows * columns, 6, 0.02f);
  const auto compensation = ErrorCompensation::Create(*machine.backend, machine.pool,
                                                      machine.Products(x, columns), columns);
  ASSERT_TRUE(compensation.ok());
  for (const int bits : {4, 8}) {
    const QuantFormat format = {.bits = bits, .group_size = 64};
    Codes compensated(rows, columns, format), searched(rows, columns, format);
    ASSERT_TRUE((*compensation)->Quantize(w.data(), rows, format, compensated.view()).ok());
    ASSERT_TRUE(
        loader::QuantizeRows(w.data(), rows, columns, format, nullptr, searched.view()).ok());
    EXPECT_LT(OutputError(w, compensated, format, x, rows, columns),
              0.5 * OutputError(w, searched, format, x, rows, columns));
  }
}

TEST(ErrorCompensation, SameCodesWithAnyThreads) {
  const int64_t columns = 320, rows = 70;
  const std::vector<float> x = CorrelatedInputs(500, columns);
  const std::vector<float> w = Normal(rows * columns, 7, 0.02f);
  const QuantFormat format = {.bits = 4, .group_size = 32, .zero_points = true};
  std::vector<int8_t> first;
  std::vector<float> first_scales;
  for (const int threads : {1, 2, 3}) {
    Machine machine(threads);
    const auto compensation = ErrorCompensation::Create(*machine.backend, machine.pool,
                                                        machine.Products(x, columns), columns);
    ASSERT_TRUE(compensation.ok());
    Codes codes(rows, columns, format);
    ASSERT_TRUE((*compensation)->Quantize(w.data(), rows, format, codes.view()).ok());
    if (threads == 1) {
      first = codes.codes;
      first_scales = codes.scales;
    }
    EXPECT_EQ(codes.codes, first);
    EXPECT_EQ(codes.scales, first_scales);
  }
}

TEST(ErrorCompensation, ColumnsWithoutInputAndFewTokens) {
  Machine machine;
  const int64_t columns = 96, rows = 8;
  // 10 tokens: H has rank 10. Column 17 is never used.
  std::vector<float> x = Normal(10 * columns, 8);
  for (int64_t t = 0; t < 10; ++t) x[t * columns + 17] = 0;
  const std::vector<float> w = Normal(rows * columns, 9, 0.02f);
  const auto compensation = ErrorCompensation::Create(*machine.backend, machine.pool,
                                                      machine.Products(x, columns), columns);
  ASSERT_TRUE(compensation.ok()) << compensation.status();
  const QuantFormat format = {.bits = 4, .group_size = 32};
  Codes codes(rows, columns, format);
  ASSERT_TRUE((*compensation)->Quantize(w.data(), rows, format, codes.view()).ok());
  for (int64_t row = 0; row < rows; ++row) {
    EXPECT_EQ(codes.codes[row * columns + 17],
              loader::QuantizeValue(format, w[row * columns + 17], codes.scales[row * 3], 8));
  }
  // Nothing at all is known: plain quantization.
  const auto blind = ErrorCompensation::Create(*machine.backend, machine.pool,
                                               std::vector<float>(columns * columns), columns);
  ASSERT_TRUE(blind.ok());
  ASSERT_TRUE((*blind)->Quantize(w.data(), rows, format, codes.view()).ok());
  Codes searched(rows, columns, format);
  ASSERT_TRUE(loader::QuantizeRows(w.data(), rows, columns, format, nullptr, searched.view()).ok());
  EXPECT_EQ(codes.codes, searched.codes);
}

}  // namespace
}  // namespace tandem::quantize
