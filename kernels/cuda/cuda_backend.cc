#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime_api.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/graph_recorder.h"
#include "kernels/cuda/host_layers.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/linear_tiles.h"
#include "kernels/cuda/matrix_product.h"
#include "kernels/cuda/pinned_upload.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/weight_packer.h"

namespace tandem::kernels {
namespace {

using cuda::CudaLinearWeight;
using cuda::CudaStatus;
using cuda::WeightLayout;

// Up to how many tokens LinearPass multiplies, from there LinearTiles; more go to cuBLASLt.
struct TokenLimits {
  int64_t pass = 0, tiles = 0;
};

// Not measured, but estimated in cycles of a multiprocessor for 16 by 16 weights, whose bytes come
// in 25 (BF16), 12 (8 bits) or 6 (INT4) on an H200 and 8 times as many on an L4. LinearPass takes
// about 4 a token for its FMAs and activations. LinearTiles takes 16 for 64 tokens, for which it
// reads the weight once; widening codes in memory for cuBLASLt takes 55 and more: 200 tokens'
// worth.
TokenLimits LimitsOf(bool quantized, bool tiles) {
  if (quantized) return tiles ? TokenLimits{4, 256} : TokenLimits{32, 32};
  return tiles ? TokenLimits{8, 64} : TokenLimits{16, 16};
}

// Attention counts tokens in a grid's y and z, which have so many blocks.
constexpr int64_t kMostTokensAtOnce = 65535;

void FreeDevice(void* data, size_t) { cudaFree(data); }

class GpuBackend final : public CudaBackend {
 public:
  explicit GpuBackend(const CudaOptions& options) : options_(options) {}

  ~GpuBackend() override {
    if (stream_ == nullptr) return;
    cudaStreamSynchronize(stream_);
    host_layers_.reset();
    packer_.reset();
    upload_.reset();
    product_.reset();
    cudaStreamDestroy(stream_);
  }

  absl::Status Create() {
    int count = 0;
    if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
      cudaGetLastError();
      return absl::UnavailableError(absl::StrCat("device cuda: ", cudaGetErrorString(error),
                                                 "; see nvidia-smi, or use --device cpu"));
    }
    if (count == 0) {
      return absl::UnavailableError(
          "device cuda: found no GPU, expected one; see nvidia-smi, or use --device cpu");
    }
    device_ = options_.device % count;
    TANDEM_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(device_), "taking it"));
    cudaDeviceProp properties;
    TANDEM_RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, device_), "properties"));
    has_bf16_ = properties.major >= 8;
    multiprocessors_ = properties.multiProcessorCount;
    id_ = absl::BytesToHexString({properties.uuid.bytes, sizeof(properties.uuid.bytes)});
    TANDEM_RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"));
    upload_ = std::make_unique<cuda::PinnedUpload>(stream_);
    TANDEM_RETURN_IF_ERROR(upload_->Create());
    packer_ =
        std::make_unique<cuda::WeightPacker>(*upload_, options_.load_threads, options_.load_cpus);
    TANDEM_ASSIGN_OR_RETURN(product_, cuda::MakeMatrixProduct(stream_));
    sampling_ = std::make_unique<cuda::CudaSampling>(stream_);
    recorder_ = std::make_unique<cuda::GraphRecorder>(device_, stream_, errors_);
    for (Buffer* scratch : {&partials_, &narrow_, &widened_}) {
      TANDEM_ASSIGN_OR_RETURN(*scratch, Allocate(options_.scratch_bytes));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Buffer> Allocate(size_t bytes) override {
    if (bytes == 0) return Buffer();
    Enter();
    void* data = nullptr;
    TANDEM_RETURN_IF_ERROR(
        CudaStatus(cudaMalloc(&data, bytes), absl::StrCat("allocating ", bytes, " bytes")));
    Buffer buffer(data, bytes, &FreeDevice);
    TANDEM_RETURN_IF_ERROR(CudaStatus(cudaMemsetAsync(data, 0, bytes, stream_), "zeros"));
    return buffer;
  }

  void CopyFromHost(void* dst, const void* src, size_t bytes) override {
    Enter();
    Keep(packer_->Copy(static_cast<std::byte*>(dst), src, bytes));
  }

  void CopyToHost(void* dst, const void* src, size_t bytes) override {
    Enter();
    // By way of a pinned buffer: the driver's own way for other memory is slower.
    const auto* from = static_cast<const std::byte*>(src);
    for (size_t done = 0; done < bytes;) {
      const size_t n = std::min(bytes - done, cuda::PinnedUpload::kBytes);
      std::byte* const pinned = upload_->Acquire();
      Check(cudaMemcpyAsync(pinned, from + done, n, cudaMemcpyDeviceToHost, stream_),
            "copy from it");
      Synchronize();
      std::memcpy(static_cast<std::byte*>(dst) + done, pinned, n);
      done += n;
    }
  }

  void Copy(void* dst, const void* src, size_t bytes) override {
    if (bytes == 0) return;
    Enter();
    Check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, stream_), "copy on it");
  }

  void Synchronize() override {
    Check(cudaStreamSynchronize(stream_), "a step");
    Check(cudaGetLastError(), "a launch");
  }
  cudaStream_t stream() const override { return stream_; }

  absl::Status status() const override { return errors_.first(); }
  bool memory_is_host() const override { return false; }
  bool KeepsLeafTree() const override { return options_.deterministic; }
  bool SupportsFormat(const QuantFormat&) const override { return true; }

  std::optional<DeviceMemoryUse> device_memory() const override {
    Enter();
    size_t free = 0, total = 0;
    if (cudaMemGetInfo(&free, &total) != cudaSuccess) free = 0;
    return DeviceMemoryUse{.free = free, .scratch = CudaScratchBytes(options_), .id = id_};
  }

  Recorder* recorder() override { return recorder_.get(); }

  void PushRange(const char* name) override { nvtxRangePushA(name); }
  void PopRange() override { nvtxRangePop(); }

  size_t PackedBytes(const LinearSpec& spec) const override {
    return cuda::WeightPlaces::Of(WeightLayout::Of(spec, has_bf16_), options_.deterministic).bytes;
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                           RowReader read_rows) override {
    TANDEM_ASSIGN_OR_RETURN(Packing packing, MakeWeight(spec));
    if (packing.weight->places.bytes > 0) {
      const bool to_half = spec.dtype == DType::kBF16 && !has_bf16_;
      TANDEM_RETURN_IF_ERROR(packer_->Pack(*packing.weight, packing.place, to_half, read_rows));
    }
    return std::move(packing.weight);
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackQuantized(
      const LinearSpec& spec, QuantizedRowReader read_rows) override {
    TANDEM_ASSIGN_OR_RETURN(Packing packing, MakeWeight(spec));
    if (packing.weight->places.bytes > 0) {
      TANDEM_RETURN_IF_ERROR(packer_->PackQuantized(*packing.weight, packing.place, read_rows));
    }
    return std::move(packing.weight);
  }

  absl::Status BeginHostLayer() override {
    Enter();
    if (host_layers_ == nullptr) {
      host_layers_ = std::make_unique<cuda::HostLayers>(device_, stream_);
      TANDEM_RETURN_IF_ERROR(host_layers_->Create());
    }
    host_layers_->BeginLayer();
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<LayerStream>> StreamHostLayers() override {
    TANDEM_CHECK(host_layers_ != nullptr);
    std::unique_ptr<cuda::HostLayers> layers = std::move(host_layers_);
    std::array<Buffer, 2> slots;
    for (Buffer& slot : slots) {
      TANDEM_ASSIGN_OR_RETURN(slot, Allocate(layers->slot_bytes()));
    }
    TANDEM_RETURN_IF_ERROR(layers->Start(std::move(slots)));
    return layers;
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> CopyPackedRows(
      const LinearSpec&, std::span<const PackedRows>) override {
    return absl::UnimplementedError("--packed-cache: a GPU's weights are not kept packed");
  }

  void Linear(const LinearWeight& linear_weight, const float* x, int64_t tokens, const float* bias,
              float* y) override {
    const auto& weight = static_cast<const CudaLinearWeight&>(linear_weight);
    const WeightLayout& layout = weight.layout;
    if (tokens == 0 || layout.rows == 0) return;
    if (layout.columns == 0) {
      if (KeepsLeafTree()) return;
      Check(cudaMemsetAsync(y, 0, tokens * layout.rows * sizeof(float), stream_), "zeros");
      return;
    }
    const TokenLimits limits =
        LimitsOf(layout.quantized(), cuda::Tileable(layout) && FitsScratch(layout));
    if (!options_.deterministic && tokens > limits.pass) {
      if (tokens <= limits.tiles) return MultiplySome(weight, x, tokens, bias, y);
      if (Multipliable(layout)) return MultiplyMany(weight, x, tokens, bias, y);
    }
    for (int64_t t = 0; t < tokens; t += cuda::kPassTokens) {
      cuda::LinearPass(stream_, layout, weight.pointers(), x, tokens, t,
                       std::min<int64_t>(cuda::kPassTokens, tokens - t), bias, y);
    }
  }

  void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                   int64_t tokens, float* out) override {
    Enter();
    const size_t row_bytes = hidden * DTypeSize(dtype);
    if (row_bytes == 0) return;
    const size_t most = std::min(cuda::PinnedUpload::kBytes, narrow_.bytes());
    const int64_t at_once = static_cast<int64_t>(most / row_bytes);
    TANDEM_CHECK(at_once > 0);
    for (int64_t t = 0; t < tokens; t += at_once) {
      const int64_t n = std::min(at_once, tokens - t);
      std::byte* const rows = upload_->Acquire();
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(rows + i * row_bytes,
                    static_cast<const std::byte*>(host_table) + ids[t + i] * row_bytes, row_bytes);
      }
      Check(upload_->Submit(narrow_.data(), n * row_bytes), "copy to it");
      cuda::Widen(stream_, narrow_.data(), dtype, n * hidden, out + t * hidden);
    }
  }

  void AddRmsNorm(const float* delta, const float* delta_bias, float* residual, const float* weight,
                  float epsilon, int64_t tokens, int64_t hidden, float* out) override {
    cuda::AddRmsNorm(stream_, delta, delta_bias, residual, weight, epsilon, tokens, hidden, out);
  }

  void RopeAngles(const int32_t* positions, int64_t tokens, const float* inverse_frequencies,
                  int64_t half, float attention_factor, float* cos, float* sin) override {
    cuda::RopeAngles(stream_, positions, tokens, inverse_frequencies, half, attention_factor, cos,
                     sin);
  }

  void RopeAndCache(const RopeAndCacheArgs& args) override {
    cuda::RopeAndCache(stream_, {.tokens = args.tokens,
                                 .q_heads = static_cast<int>(args.q_heads),
                                 .qkv = args.qkv,
                                 .q_norm = args.q_norm,
                                 .k_norm = args.k_norm,
                                 .norm_epsilon = args.norm_epsilon,
                                 .cos = args.cos,
                                 .sin = args.sin,
                                 .slot_mapping = args.slot_mapping,
                                 .cache = args.cache});
  }

  void PagedAttention(const PagedAttentionArgs& args) override {
    if (args.q_heads == 0) return;
    cuda::AttentionArgs all = {.tokens = args.tokens,
                               .q_heads = static_cast<int>(args.q_heads),
                               .head_dim = static_cast<int>(args.head_dim),
                               .qkv = args.qkv,
                               .qkv_stride = args.qkv_stride,
                               .positions = args.positions,
                               .token_sequence = args.token_sequence,
                               .block_tables = args.block_tables,
                               .max_blocks = args.max_blocks,
                               .scale = args.scale,
                               .cache = args.cache,
                               .out = args.out};
    TANDEM_CHECK(args.cache.kv_heads <= cuda::kMaxKvHeads);
    for (int64_t h = 0; h < args.q_heads; ++h) {
      TANDEM_CHECK(h == 0 || args.head_to_kv[h] >= args.head_to_kv[h - 1]);
      ++all.first_head[args.head_to_kv[h] + 1];
    }
    for (int64_t h = 0; h < args.cache.kv_heads; ++h) all.first_head[h + 1] += all.first_head[h];
    const auto some = [&all](int64_t begin, int64_t end) {
      cuda::AttentionArgs part = all;
      part.tokens = end - begin;
      part.qkv += begin * all.qkv_stride;
      part.positions += begin;
      part.token_sequence += begin;
      part.out += begin * all.q_heads * all.head_dim;
      return part;
    };
    if (!options_.deterministic && cuda::MatrixAttentionTakes(args.cache, has_bf16_)) {
      const auto attend = [&](int64_t begin, int64_t end, bool single) {
        for (int64_t t = begin; t < end; t += kMostTokensAtOnce) {
          cuda::MatrixAttention(stream_, some(t, std::min(t + kMostTokensAtOnce, end)), single,
                                multiprocessors_, partials_.as<float>(), partials_.bytes());
        }
      };
      attend(0, args.single_tokens, true);
      attend(args.single_tokens, args.tokens, false);
      return;
    }
    int64_t done = 0;
    const int partitions =
        static_cast<int>((args.single_context + cuda::kPartition - 1) / cuda::kPartition);
    const int64_t token_bytes = cuda::PartialBytes(1, all.q_heads, all.head_dim, partitions);
    const int64_t at_once =
        token_bytes == 0
            ? 0
            : std::min(kMostTokensAtOnce, static_cast<int64_t>(partials_.bytes()) / token_bytes);
    while (at_once > 0 && done < args.single_tokens) {
      const int64_t end = std::min(done + at_once, args.single_tokens);
      cuda::DecodeAttention(stream_, some(done, end), partitions, multiprocessors_,
                            partials_.as<float>());
      done = end;
    }
    for (; done < args.tokens; done += kMostTokensAtOnce) {
      cuda::PrefillAttention(stream_, some(done, std::min(done + kMostTokensAtOnce, args.tokens)));
    }
  }

  void SiluMul(const float* gate_up, int64_t tokens, int64_t columns, float* out) override {
    cuda::SiluMul(stream_, gate_up, tokens, columns, out);
  }

  void GatherRows(const float* x, const int32_t* indices, int64_t rows, int64_t columns,
                  float* out) override {
    cuda::GatherRows(stream_, x, indices, rows, columns, out);
  }

  const SamplingOps* sampling() const override { return sampling_.get(); }

 private:
  // A thread of the host has a current GPU; steps may come from another than loading.
  void Enter() const { cudaSetDevice(device_); }

  void Keep(const absl::Status& status) { errors_.Keep(status); }
  void Check(cudaError_t error, std::string_view what) { errors_.Check(error, what); }

  // A weight that is being packed.
  struct Packing {
    std::unique_ptr<CudaLinearWeight> weight;
    cuda::WeightPacker::Place place;
  };

  absl::StatusOr<Packing> MakeWeight(const LinearSpec& spec) {
    const WeightLayout layout = WeightLayout::Of(spec, has_bf16_);
    Packing packing;
    if (host_layers_ != nullptr) {
      TANDEM_ASSIGN_OR_RETURN(const cuda::HostLayers::Home home,
                              host_layers_->Add(PackedBytes(spec)));
      packing.weight = std::make_unique<CudaLinearWeight>(spec, layout, options_.deterministic,
                                                          host_layers_->slot(), home.offset);
      packing.place.host = home.host;
    } else {
      TANDEM_ASSIGN_OR_RETURN(Buffer data, Allocate(PackedBytes(spec)));
      packing.weight =
          std::make_unique<CudaLinearWeight>(spec, layout, options_.deterministic, std::move(data));
      packing.place.gpu = packing.weight->data();
    }
    if (options_.deterministic && packing.weight->places.bytes > 0) {
      TANDEM_RETURN_IF_ERROR(packer_->PackTree(*packing.weight, packing.place));
    }
    return packing;
  }

  // Of activations as the matrix units get them.
  DType ProductType(const WeightLayout& layout) const {
    if (layout.format == cuda::Format::kF32) return DType::kF32;
    return layout.format == cuda::Format::kF16 || !has_bf16_ ? DType::kF16 : DType::kBF16;
  }

  // Whether rows of activations and of widened weights do, in the product's type.
  bool FitsScratch(const WeightLayout& layout) const {
    return layout.columns * DTypeSize(ProductType(layout)) <= options_.scratch_bytes;
  }

  // Whether cuBLASLt can have it: rows that start and end on 16 bytes, and fit scratch.
  bool Multipliable(const WeightLayout& layout) const {
    return (layout.quantized() || layout.plain()) &&
           layout.columns * DTypeSize(ProductType(layout)) % 16 == 0 && FitsScratch(layout);
  }

  void MultiplySome(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                    const float* bias, float* y) {
    const WeightLayout& layout = weight.layout;
    const DType dtype = ProductType(layout);
    const int64_t fit = static_cast<int64_t>(narrow_.bytes() / DTypeSize(dtype)) / layout.columns;
    for (int64_t t = 0; t < tokens; t += fit) {
      const int64_t n = std::min(fit, tokens - t);
      cuda::Narrow(stream_, x + t * layout.columns, dtype, n * layout.columns, narrow_.data());
      cuda::LinearTiles(stream_, layout, weight.pointers(), dtype, narrow_.data(), n, bias,
                        cuda::TileSplits(layout, n, multiprocessors_, partials_.bytes()),
                        partials_.as<float>(), y + t * layout.rows);
    }
  }

  void MultiplyMany(const CudaLinearWeight& weight, const float* x, int64_t tokens,
                    const float* bias, float* y) {
    const WeightLayout& layout = weight.layout;
    const int64_t columns = layout.columns;
    const DType dtype = ProductType(layout);
    const bool single = dtype == DType::kF32;
    const int64_t row_bytes = columns * static_cast<int64_t>(DTypeSize(dtype));
    const int64_t rows_at_once =
        layout.quantized() ? static_cast<int64_t>(widened_.bytes()) / row_bytes : layout.rows;
    const int64_t tokens_at_once =
        single ? tokens : static_cast<int64_t>(narrow_.bytes()) / row_bytes;
    for (int64_t t = 0; t < tokens; t += tokens_at_once) {
      const int64_t n = std::min(tokens_at_once, tokens - t);
      const void* activations = x + t * columns;
      if (!single) {
        cuda::Narrow(stream_, x + t * columns, dtype, n * columns, narrow_.data());
        activations = narrow_.data();
      }
      for (int64_t row = 0; row < layout.rows; row += rows_at_once) {
        const int64_t end = std::min<int64_t>(row + rows_at_once, layout.rows);
        const void* w = weight.pointers().weight;
        int64_t stride = layout.row_bytes() / static_cast<int64_t>(DTypeSize(dtype));
        if (layout.quantized()) {
          cuda::Dequantize(stream_, layout, weight.pointers(), row, end, dtype, widened_.data());
          w = widened_.data();
          stride = columns;
        }
        Keep(product_->Multiply({.dtype = dtype,
                                 .rows = end - row,
                                 .columns = columns,
                                 .tokens = n,
                                 .w_stride = stride,
                                 .y_stride = layout.rows},
                                w, activations, y + t * layout.rows + row));
      }
    }
    if (bias != nullptr) cuda::AddBias(stream_, bias, tokens, layout.rows, y);
  }

  const CudaOptions options_;
  int device_ = 0;
  bool has_bf16_ = true;
  int multiprocessors_ = 1;
  std::string id_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<cuda::PinnedUpload> upload_;
  std::unique_ptr<cuda::WeightPacker> packer_;
  std::unique_ptr<cuda::MatrixProduct> product_;
  std::unique_ptr<cuda::CudaSampling> sampling_;
  std::unique_ptr<cuda::HostLayers> host_layers_;  // while they are packed
  // Of options.scratch_bytes each.
  Buffer partials_;  // attention's partitions; LinearTiles' splits
  Buffer narrow_;    // activations rounded for the matrix units; embedding rows as stored
  Buffer widened_;   // rows of a quantized weight
  cuda::CudaErrors errors_;
  std::unique_ptr<cuda::GraphRecorder> recorder_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> MakeCudaBackend(const CudaOptions& options) {
  auto backend = std::make_unique<GpuBackend>(options);
  TANDEM_RETURN_IF_ERROR(backend->Create());
  return backend;
}

}  // namespace tandem::kernels
