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
#include "kernels/cuda/attention_launch.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/graph_recorder.h"
#include "kernels/cuda/host_layers.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_product.h"
#include "kernels/cuda/matrix_product.h"
#include "kernels/cuda/pinned_upload.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/weight_packer.h"

namespace tandem::kernels {
namespace {

using cuda::CudaLinearWeight;
using cuda::CudaStatus;
using cuda::WeightLayout;

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
    gpu_.device = options_.device % count;
    TANDEM_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(gpu_.device), "selecting the device"));
    cudaDeviceProp properties;
    TANDEM_RETURN_IF_ERROR(
        CudaStatus(cudaGetDeviceProperties(&properties, gpu_.device), "properties"));
    gpu_.has_bf16 = properties.major >= 8;
    gpu_.multiprocessors = properties.multiProcessorCount;
    id_ = absl::BytesToHexString({properties.uuid.bytes, sizeof(properties.uuid.bytes)});
    TANDEM_RETURN_IF_ERROR(
        CudaStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"));
    upload_ = std::make_unique<cuda::PinnedUpload>(stream_);
    TANDEM_RETURN_IF_ERROR(upload_->Create());
    packer_ =
        std::make_unique<cuda::WeightPacker>(*upload_, options_.load_threads, options_.load_cpus);
    TANDEM_ASSIGN_OR_RETURN(product_, cuda::MakeMatrixProduct(stream_));
    sampling_ = std::make_unique<cuda::CudaSampling>(stream_);
    recorder_ = std::make_unique<cuda::GraphRecorder>(gpu_.device, stream_, errors_);
    for (Buffer* scratch : {&scratch_.partials, &scratch_.narrow, &scratch_.widened}) {
      TANDEM_ASSIGN_OR_RETURN(*scratch, Allocate(options_.scratch_bytes));
    }
    linear_ = std::make_unique<cuda::LinearProduct>(stream_, gpu_, options_.deterministic,
                                                    *product_, scratch_, errors_);
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
    // Through a pinned buffer: the driver's own way for other memory is slower.
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
    return cuda::WeightPlaces::Of(WeightLayout::Of(spec, gpu_.has_bf16), options_.deterministic)
        .bytes;
  }

  absl::StatusOr<std::unique_ptr<LinearWeight>> PackLinear(const LinearSpec& spec,
                                                           RowReader read_rows) override {
    TANDEM_ASSIGN_OR_RETURN(Packing packing, MakeWeight(spec));
    if (packing.weight->places.bytes > 0) {
      const bool to_half = spec.dtype == DType::kBF16 && !gpu_.has_bf16;
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
      host_layers_ = std::make_unique<cuda::HostLayers>(gpu_.device, stream_);
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

  void Linear(const LinearWeight& weight, const float* x, int64_t tokens, const float* bias,
              float* y) override {
    linear_->Multiply(static_cast<const CudaLinearWeight&>(weight), x, tokens, bias, y);
  }

  void EmbedTokens(const void* host_table, DType dtype, int64_t hidden, const int32_t* ids,
                   int64_t tokens, float* out) override {
    Enter();
    const size_t row_bytes = hidden * DTypeSize(dtype);
    if (row_bytes == 0) return;
    const size_t most = std::min(cuda::PinnedUpload::kBytes, scratch_.narrow.bytes());
    const int64_t at_once = static_cast<int64_t>(most / row_bytes);
    TANDEM_CHECK(at_once > 0);
    for (int64_t t = 0; t < tokens; t += at_once) {
      const int64_t n = std::min(at_once, tokens - t);
      std::byte* const rows = upload_->Acquire();
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(rows + i * row_bytes,
                    static_cast<const std::byte*>(host_table) + ids[t + i] * row_bytes, row_bytes);
      }
      Check(upload_->Submit(scratch_.narrow.data(), n * row_bytes), "copy to it");
      cuda::Widen(stream_, scratch_.narrow.data(), dtype, n * hidden, out + t * hidden);
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
    cuda::Attend(stream_, gpu_, options_.deterministic, args, scratch_.partials);
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
  // The current GPU belongs to the host's thread, and steps may come from another thread than
  // loading.
  void Enter() const { cudaSetDevice(gpu_.device); }

  void Keep(const absl::Status& status) { errors_.Keep(status); }
  void Check(cudaError_t error, std::string_view what) { errors_.Check(error, what); }

  // A weight that is being packed.
  struct Packing {
    std::unique_ptr<CudaLinearWeight> weight;
    cuda::WeightPacker::Place place;
  };

  absl::StatusOr<Packing> MakeWeight(const LinearSpec& spec) {
    const WeightLayout layout = WeightLayout::Of(spec, gpu_.has_bf16);
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

  const CudaOptions options_;
  cuda::GpuProperties gpu_;
  std::string id_;
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<cuda::PinnedUpload> upload_;
  std::unique_ptr<cuda::WeightPacker> packer_;
  std::unique_ptr<cuda::MatrixProduct> product_;
  std::unique_ptr<cuda::CudaSampling> sampling_;
  std::unique_ptr<cuda::HostLayers> host_layers_;  // while they are packed
  cuda::Scratch scratch_;                          // of options.scratch_bytes each
  cuda::CudaErrors errors_;
  std::unique_ptr<cuda::GraphRecorder> recorder_;
  std::unique_ptr<cuda::LinearProduct> linear_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CudaBackend>> MakeCudaBackend(const CudaOptions& options) {
  auto backend = std::make_unique<GpuBackend>(options);
  TANDEM_RETURN_IF_ERROR(backend->Create());
  return backend;
}

}  // namespace tandem::kernels
