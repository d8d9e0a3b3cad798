#include "kernels/cuda/host_layers.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/pinned_memory.h"

namespace tandem::kernels::cuda {
namespace {

// Bytes of one copy: small copies of other streams (a step's tokens, partial sums) go in between.
constexpr size_t kCopyBytes = 16 << 20;

absl::Status CopyStatus(cudaError_t error) {
  return CudaStatus(error, "copies of streamed weights");
}

}  // namespace

HostLayers::~HostLayers() {
  if (copy_ != nullptr) {
    cudaStreamSynchronize(copy_);
    cudaStreamDestroy(copy_);
  }
  for (const cudaEvent_t event : {computed_, copied_[0], copied_[1]}) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

absl::Status HostLayers::Create() {
  TANDEM_RETURN_IF_ERROR(CopyStatus(cudaStreamCreateWithFlags(&copy_, cudaStreamNonBlocking)));
  for (cudaEvent_t* event : {&computed_, &copied_[0], &copied_[1]}) {
    TANDEM_RETURN_IF_ERROR(CopyStatus(cudaEventCreateWithFlags(event, cudaEventDisableTiming)));
  }
  return absl::OkStatus();
}

absl::StatusOr<HostLayers::Home> HostLayers::Add(size_t bytes) {
  Layer& layer = layers_.back();
  Home home = {.offset = layer.bytes};
  if (bytes == 0) return home;
  auto memory = AllocatePinned(bytes);
  if (!memory.ok()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "--weights stream: the system pins no more memory for weights: found ", layer_bytes() >> 20,
        " MiB, expected room for ", bytes >> 20, " more in layer ", layers_.size() - 1,
        "; see ulimit -l and the limits of the container, or use more ranks or a smaller format"));
  }
  home.host = memory->as<std::byte>();
  std::memset(home.host, 0, bytes);
  layer.weights.push_back(*std::move(memory));
  layer.bytes += bytes;
  return home;
}

size_t HostLayers::slot_bytes() const {
  size_t most = 0;
  for (const Layer& layer : layers_) most = std::max(most, layer.bytes);
  return most;
}

uint64_t HostLayers::layer_bytes() const {
  uint64_t sum = 0;
  for (const Layer& layer : layers_) sum += layer.bytes;
  return sum;
}

absl::Status HostLayers::Start(std::array<Buffer, 2> slots) {
  TANDEM_CHECK(!layers_.empty() && slots_[0].bytes() == 0);
  slots_ = std::move(slots);
  return StartCopy(0, 0);
}

absl::Status HostLayers::Enter(size_t layer) {
  if (layer == layers_.size()) return absl::OkStatus();  // the head is on the GPU
  TANDEM_CHECK(entered_ % layers_.size() == layer);
  cudaSetDevice(device_);
  const size_t slot = entered_++ % 2;
  // The operations of the layer before, which has the other slot, have been issued.
  TANDEM_RETURN_IF_ERROR(StartCopy((layer + 1) % layers_.size(), 1 - slot));
  slot_ = slots_[slot].as<std::byte>();
  return CopyStatus(cudaStreamWaitEvent(compute_, copied_[slot], 0));
}

absl::Status HostLayers::StartCopy(size_t layer, size_t slot) {
  TANDEM_RETURN_IF_ERROR(CopyStatus(cudaEventRecord(computed_, compute_)));
  TANDEM_RETURN_IF_ERROR(CopyStatus(cudaStreamWaitEvent(copy_, computed_, 0)));
  auto* to = slots_[slot].as<std::byte>();
  for (const Buffer& weight : layers_[layer].weights) {
    for (size_t done = 0; done < weight.bytes(); done += kCopyBytes) {
      const size_t n = std::min(kCopyBytes, weight.bytes() - done);
      TANDEM_RETURN_IF_ERROR(CopyStatus(cudaMemcpyAsync(to + done, weight.as<std::byte>() + done, n,
                                                        cudaMemcpyHostToDevice, copy_)));
    }
    to += weight.bytes();
  }
  return CopyStatus(cudaEventRecord(copied_[slot], copy_));
}

}  // namespace tandem::kernels::cuda
