// Linear products of one layer's shapes, as fractions of what the machine can do:
// the ceilings are measured right before and after each case, since a shared
// host's memory bandwidth changes by the minute.
//
//   linear_bench [--benchmark_filter=int4g32.*/threads:2/...]
//
// Weights of one case take more than the last-level cache, so that each pass reads
// them from memory. Counters: gbps and gops of the product; of_read and of_peak,
// the fractions of the plain read loop and of the format's dot-product peak.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/probe.h"

namespace tandem::kernels {
namespace {

struct Format {
  const char* name;
  DType dtype;
  std::optional<QuantFormat> quant;
  DotType dot;
};

const Format kFormats[] = {
    {"fp32", DType::kF32, std::nullopt, DotType::kF32},
    {"fp16", DType::kF16, std::nullopt, DotType::kF32},
    {"bf16", DType::kBF16, std::nullopt, DotType::kBf16},
    {"int8g32", DType::kF32, QuantFormat{8, 32, false, DType::kF16}, DotType::kInt8},
    {"int8g64", DType::kF32, QuantFormat{8, 64, false, DType::kF16}, DotType::kInt8},
    {"int8g128", DType::kF32, QuantFormat{8, 128, false, DType::kF16}, DotType::kInt8},
    {"int4g32", DType::kF32, QuantFormat{4, 32, false, DType::kF16}, DotType::kInt8},
    {"int4g64", DType::kF32, QuantFormat{4, 64, false, DType::kF16}, DotType::kInt8},
    {"int4g128", DType::kF32, QuantFormat{4, 128, false, DType::kF16}, DotType::kInt8},
    {"int4g128z", DType::kF32, QuantFormat{4, 128, true, DType::kF16}, DotType::kInt8},
};

// Gate and up, and down, of a 1B model.
struct Shape {
  int64_t rows, columns;
};
constexpr Shape kShapes[] = {{16384, 2048}, {2048, 8192}};
constexpr size_t kWeightBytes = size_t{160} << 20;

class Layers {
 public:
  Layers(Backend& backend, const Format& format) {
    for (size_t i = 0; bytes_ < kWeightBytes; ++i) {
      const Shape shape = kShapes[i % std::size(kShapes)];
      const LinearSpec spec = {.dtype = format.dtype,
                               .quant = format.quant,
                               .rows = shape.rows,
                               .global_columns = shape.columns,
                               .leaf_size = 128,
                               .leaves = {0, shape.columns / 128}};
      weights_.push_back(Pack(backend, spec));
      bytes_ += weights_.back()->bytes();
      macs_ += static_cast<double>(shape.rows) * static_cast<double>(shape.columns);
    }
  }

  void Multiply(Backend& backend, const std::vector<float>& x, int64_t tokens,
                std::vector<float>& y) const {
    for (const auto& weight : weights_) {
      backend.Linear(*weight, x.data(), tokens, nullptr, y.data());
    }
  }
  double bytes() const { return static_cast<double>(bytes_); }
  double macs() const { return macs_; }

 private:
  static std::unique_ptr<LinearWeight> Pack(Backend& backend, const LinearSpec& spec) {
    std::minstd_rand random(1);
    if (!spec.quant.has_value()) {
      return *backend.PackLinear(spec, [&](int64_t begin, int64_t end, std::byte* dst) {
        // 0x3c: numbers near one hundredth in every format.
        const size_t n = (end - begin) * spec.columns() * DTypeSize(spec.dtype);
        for (size_t i = 0; i < n; ++i) dst[i] = std::byte{static_cast<uint8_t>(random() >> 8)};
        const size_t size = DTypeSize(spec.dtype);
        for (size_t i = size - 1; i < n; i += size) dst[i] = std::byte{0x3c};
        return absl::OkStatus();
      });
    }
    return *backend.PackQuantized(spec, [&](int64_t begin, int64_t end, QuantizedRows dst) {
      const int64_t rows = end - begin, groups = spec.group_end() - spec.group_begin();
      const int mask = spec.quant->bits == 8 ? 255 : 15;
      for (int64_t i = 0; i < rows * spec.columns(); ++i) {
        dst.codes[i] = static_cast<int8_t>(random() >> 8 & mask);
      }
      std::fill_n(dst.scales, rows * groups, 0.01f);
      if (spec.quant->zero_points) std::fill_n(dst.zeros, rows * groups, uint8_t{7});
      return absl::OkStatus();
    });
  }

  std::vector<std::unique_ptr<LinearWeight>> weights_;
  size_t bytes_ = 0;
  double macs_ = 0;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void Linear(benchmark::State& state, const Format& format, int threads, int64_t tokens) {
  const auto backend = *MakeCpuBackend("auto", {.threads = threads});
  const auto probe = *MakeMachineProbe("auto", {.threads = threads}, size_t{256} << 20);
  const Layers layers(*backend, format);
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(tokens * 8192), y(tokens * 16384);
  for (float& v : x) v = normal(random);
  layers.Multiply(*backend, x, tokens, y);

  using std::chrono::milliseconds;
  const auto ceiling = [&] {
    return std::pair(probe->ReadBandwidth(milliseconds(20)),
                     probe->PeakArithmetic(format.dot, milliseconds(10)));
  };
  std::vector<double> gbps, gops, of_read, of_peak;
  auto before = ceiling();
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    layers.Multiply(*backend, x, tokens, y);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    state.SetIterationTime(seconds);
    const auto after = ceiling();
    gbps.push_back(layers.bytes() / seconds);
    gops.push_back(2 * layers.macs() * static_cast<double>(tokens) / seconds);
    of_read.push_back(gbps.back() / ((before.first + after.first) / 2));
    of_peak.push_back(gops.back() / ((before.second + after.second) / 2));
    before = after;
  }
  state.counters["gbps"] = Median(gbps) / 1e9;
  state.counters["gops"] = Median(gops) / 1e9;
  state.counters["of_read"] = Median(of_read);
  state.counters["of_peak"] = Median(of_peak);
}

}  // namespace
}  // namespace tandem::kernels

int main(int argc, char** argv) {
  using namespace tandem::kernels;
  for (const Format& format : kFormats) {
    for (int threads : {1, 2}) {
      for (int64_t tokens : {1, 4, 16, 64, 512}) {
        benchmark::RegisterBenchmark(
            absl::StrCat(format.name, "/threads:", threads, "/tokens:", tokens).c_str(),
            [&format, threads, tokens](benchmark::State& state) {
              Linear(state, format, threads, tokens);
            })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond)
            ->Iterations(tokens >= 64 ? 3 : 9);
      }
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return EXIT_SUCCESS;
}
