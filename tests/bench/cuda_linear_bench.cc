// How long a GPU takes for products of a matrix with 1, 2, 4, ... tokens by each way that
// kernels/cuda has, to see where one should give way to the next (LimitsOf in
// kernels/cuda/cuda_backend.cc). One line a case, as JSON:
//   cuda_linear_bench [--rows N --columns N] [--formats bf16,int8,...] [--tokens N] [--bytes N]
// --tokens: the most; --bytes: of weights that take turns, so that none stays in the cache.
// Exits 77 where there is no GPU.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_tiles.h"
#include "kernels/cuda/matrix_product.h"

namespace tandem::kernels {
namespace {

constexpr size_t kScratch = 64 << 20;

struct Options {
  std::vector<std::array<int64_t, 2>> shapes = {
      {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
  std::vector<std::string> formats = {"bf16", "int8", "int4", "fp8"};
  int64_t tokens = 512;
  int64_t bytes = 512 << 20;
};

std::optional<QuantFormat> QuantOf(const std::string& format) {
  if (format == "int8") return QuantFormat{.bits = 8};
  if (format == "int4") return QuantFormat{.bits = 4};
  if (format == "fp8") {
    return QuantFormat{
        .group_size = 128, .scale_dtype = DType::kF32, .code_type = CodeType::kFloat8};
  }
  return std::nullopt;
}

absl::Status FillRandom(Backend& backend, const Buffer& buffer) {
  std::vector<std::byte> bytes(buffer.bytes());
  uint32_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24 & 0x3f);  // numbers in every format
  }
  backend.CopyFromHost(buffer.data(), bytes.data(), bytes.size());
  return backend.status();
}

// One matrix of one format, some times over.
class Case {
 public:
  Case(Backend& backend, const std::string& format, int64_t rows, int64_t columns, int64_t bytes,
       int64_t most_tokens)
      : backend_(backend),
        stream_(CudaBackend::Of(backend).stream()),
        layout_(cuda::WeightLayout::Of({.dtype = DType::kBF16,
                                        .quant = QuantOf(format),
                                        .rows = rows,
                                        .global_columns = columns,
                                        .leaves = {0, (columns + 127) / 128}},
                                       true)),
        places_(cuda::WeightPlaces::Of(layout_, false)),
        copies_(std::max<int64_t>(1, bytes / static_cast<int64_t>(places_.bytes))),
        multiprocessors_(Multiprocessors()),
        product_(*cuda::MakeMatrixProduct(stream_)),
        weights_(*backend.Allocate(copies_ * places_.bytes)),
        x_(*backend.Allocate(most_tokens * columns * 4)),
        y_(*backend.Allocate(most_tokens * rows * 4)),
        narrow_(*backend.Allocate(most_tokens * columns * 2)),
        partials_(*backend.Allocate(kScratch)),
        widened_(*backend.Allocate(kScratch)) {}

  absl::Status Fill() {
    if (absl::Status status = FillRandom(backend_, weights_); !status.ok()) return status;
    return FillRandom(backend_, x_);
  }

  double weight_bytes() const { return static_cast<double>(places_.bytes); }

  void Pass(int copy, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t += cuda::kPassTokens) {
      cuda::LinearPass(stream_, layout_, Weight(copy), x_.as<float>(), tokens, t,
                       std::min<int64_t>(cuda::kPassTokens, tokens - t), nullptr, y_.as<float>());
    }
  }

  void Tiles(int copy, int64_t tokens) {
    cuda::Narrow(stream_, x_.as<float>(), DType::kBF16, tokens * layout_.columns, narrow_.data());
    cuda::LinearTiles(stream_, layout_, Weight(copy), DType::kBF16, narrow_.data(), tokens, nullptr,
                      cuda::TileSplits(layout_, tokens, multiprocessors_, kScratch),
                      partials_.as<float>(), y_.as<float>());
  }

  void Library(int copy, int64_t tokens) {
    cuda::Narrow(stream_, x_.as<float>(), DType::kBF16, tokens * layout_.columns, narrow_.data());
    const int64_t columns = layout_.columns;
    const int64_t at_once = layout_.quantized() ? static_cast<int64_t>(kScratch) / (2 * columns)
                                                : int64_t{layout_.rows};
    for (int64_t row = 0; row < layout_.rows; row += at_once) {
      const int64_t end = std::min<int64_t>(row + at_once, layout_.rows);
      const void* w = Weight(copy).weight;
      if (layout_.quantized()) {
        cuda::Dequantize(stream_, layout_, Weight(copy), row, end, DType::kBF16, widened_.data());
        w = widened_.data();
      }
      const absl::Status status = product_->Multiply({.dtype = DType::kBF16,
                                                      .rows = end - row,
                                                      .columns = columns,
                                                      .tokens = tokens,
                                                      .w_stride = columns,
                                                      .y_stride = layout_.rows},
                                                     w, narrow_.data(), y_.as<float>() + row);
      if (!status.ok()) std::cerr << status << '\n';
    }
  }

  // Microseconds of one product, recorded so that launches by the host do not count.
  double Measure(void (Case::*way)(int copy, int64_t tokens), int64_t tokens) {
    constexpr int kProducts = 16, kReplays = 4;
    int copy = 0;
    const auto products = [&] {
      for (int i = 0; i < kProducts; ++i) (this->*way)(copy++ % copies_, tokens);
      return absl::OkStatus();
    };
    // Once for what is made on first use, which a recording may not do.
    (void)products();
    backend_.Synchronize();
    kernels::Recorder& recorder = *backend_.recorder();  // CUDA backends have one
    const auto recording = recorder.Record(products);
    if (!recording.ok()) {
      std::cerr << recording.status() << '\n';
      return 0;
    }
    recorder.Replay(**recording);
    backend_.Synchronize();
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kReplays; ++i) recorder.Replay(**recording);
    backend_.Synchronize();
    const std::chrono::duration<double, std::micro> taken =
        std::chrono::steady_clock::now() - begin;
    return taken.count() / (kProducts * kReplays);
  }

 private:
  static int Multiprocessors() {
    cudaDeviceProp properties = {};
    return cudaGetDeviceProperties(&properties, 0) == cudaSuccess ? properties.multiProcessorCount
                                                                  : 1;
  }

  cuda::LinearPointers Weight(int copy) const {
    const std::byte* const base = weights_.as<std::byte>() + copy * places_.bytes;
    return {.weight = base,
            .scales = base + places_.scales,
            .zeros = reinterpret_cast<const uint8_t*>(base + places_.zeros)};
  }

  Backend& backend_;
  const cudaStream_t stream_;
  const cuda::WeightLayout layout_;
  const cuda::WeightPlaces places_;
  const int64_t copies_;
  const int multiprocessors_;
  const std::unique_ptr<cuda::MatrixProduct> product_;
  const Buffer weights_, x_, y_, narrow_, partials_, widened_;
};

int Run(const Options& options) {
  const auto backend = MakeCudaBackend({});
  if (!backend.ok()) {
    std::cerr << "skipped: " << backend.status().message() << '\n';
    return 77;
  }
  for (const auto& [rows, columns] : options.shapes) {
    for (const std::string& format : options.formats) {
      Case products(**backend, format, rows, columns, options.bytes, options.tokens);
      if (const absl::Status status = products.Fill(); !status.ok()) {
        std::cerr << status << '\n';
        return 1;
      }
      for (int64_t tokens = 1; tokens <= options.tokens; tokens *= 2) {
        // Slower by far beyond.
        const double pass = tokens <= 64 ? products.Measure(&Case::Pass, tokens) : 0;
        const double tiles = products.Measure(&Case::Tiles, tokens);
        const double library = products.Measure(&Case::Library, tokens);
        const double best = std::min({pass > 0 ? pass : tiles, tiles, library});
        std::cout << absl::StrFormat(
                         "{\"what\":\"product\",\"format\":\"%s\",\"rows\":%d,\"columns\":%d,"
                         "\"tokens\":%d,\"pass_us\":%.2f,\"tiles_us\":%.2f,\"cublaslt_us\":%.2f,"
                         "\"weight_gb_per_s\":%.0f}",
                         format, rows, columns, tokens, pass, tiles, library,
                         products.weight_bytes() / best * 1e-3)
                  << std::endl;
      }
    }
  }
  return (*backend)->status().ok() ? 0 : 1;
}

int Main(int count, char** arguments) {
  Options options;
  std::map<std::string, int64_t*> numbers = {{"--tokens", &options.tokens},
                                             {"--bytes", &options.bytes}};
  std::array<int64_t, 2> shape = {};
  numbers["--rows"] = &shape[0];
  numbers["--columns"] = &shape[1];
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string name = arguments[i];
    if (name == "--formats") {
      options.formats = absl::StrSplit(arguments[i + 1], ',');
    } else if (!numbers.contains(name) || !absl::SimpleAtoi(arguments[i + 1], numbers[name])) {
      std::cerr << name << ": found " << arguments[i + 1] << ", expected an option and a number\n";
      return 64;
    }
  }
  if (shape[0] > 0 && shape[1] > 0) options.shapes = {shape};
  return Run(options);
}

}  // namespace
}  // namespace tandem::kernels

int main(int count, char** arguments) { return tandem::kernels::Main(count, arguments); }
