// The calls of the CUDA runtime that the product makes, emulated. Device memory is
// the host's, filled with 0xFF when allocated. The one device is of compute
// capability 8.0; to collectives, ranks that are threads have one each, with a number of its own.
#include <cuda_runtime_api.h>
#include <malloc.h>
#include <sched.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "tests/emulation/faults.h"
#include "tests/emulation/last_error.h"
#include "tests/emulation/options.h"
#include "tests/emulation/peer.h"
#include "tests/emulation/stream.h"

// Opaque to callers.
struct CUstream_st {
  std::deque<tandem::emulation::Work> queue;
  std::unique_ptr<std::vector<tandem::emulation::Work>> captured;
};
struct CUevent_st {
  CUstream_st* stream = nullptr;
  std::shared_ptr<bool> reached = std::make_shared<bool>(true);  // the last record's
};
struct CUgraph_st {
  std::vector<tandem::emulation::Work> work;
};
struct CUgraphExec_st {
  std::vector<tandem::emulation::Work> work;
};

namespace {

// Of the device, taken by all threads.
constexpr size_t kMemory = size_t{4} << 30;
constexpr size_t kGraphMemory = size_t{1} << 20;  // of each that can be launched
std::atomic<size_t> taken = 0;

}  // namespace

namespace tandem::emulation {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::vector<CUstream_st*> streams;  // that this thread made

std::atomic<int> gpus = 0;
thread_local const int own_gpu = gpus++;

// While streams run ahead of one that is looked at, their waits leave that one alone.
thread_local bool ahead = false;

void RunAhead(CUstream_st* looked_at) {
  ahead = true;
  for (CUstream_st* stream : streams) {
    while (stream != looked_at && !stream->queue.empty() && stream->queue.front()()) {
      stream->queue.pop_front();
    }
  }
  ahead = false;
}

// False where the next work waits for other ranks or another stream. It stays in front meanwhile;
// work itself enqueues nothing.
bool RunNext(CUstream_st* stream) {
  if (GetOptions().ahead && !ahead) RunAhead(stream);
  if (!stream->queue.front()()) {
    sched_yield();
    return false;
  }
  stream->queue.pop_front();
  return true;
}

void Drain(CUstream_st* stream) {
  while (!stream->queue.empty()) RunNext(stream);
}

}  // namespace

cudaError_t Failed(cudaError_t error) {
  last_error = error;
  return error;
}

void Enqueue(cudaStream_t stream, std::function<void()> work) {
  EnqueueWaiting(stream, [work = std::move(work)] {
    work();
    return true;
  });
}

void EnqueueWaiting(cudaStream_t stream, Work work) {
  if (stream == nullptr) {
    std::fprintf(stderr, "emulation: work on the null stream\n");
    std::abort();
  }
  if (stream->captured != nullptr) {
    stream->captured->push_back(std::move(work));
  } else {
    stream->queue.push_back(std::move(work));
    // What has to wait for other ranks is left to who looks at the stream.
    while (GetOptions().early && !stream->queue.empty() && RunNext(stream)) {
    }
  }
}

bool IsCapturing(cudaStream_t stream) { return stream->captured != nullptr; }

}  // namespace tandem::emulation

using tandem::emulation::Drain;
using tandem::emulation::Enqueue;
using tandem::emulation::EnqueueWaiting;
using tandem::emulation::Failed;
using tandem::emulation::RunNext;

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : Failed(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = tandem::emulation::GetFaults().one_gpu ? 0 : tandem::emulation::own_gpu;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device > tandem::emulation::gpus) return Failed(cudaErrorInvalidDevice);
  *properties = {};
  std::memcpy(properties->uuid.bytes, &device, sizeof(device));
  std::strcpy(properties->name, "emulation");
  properties->major = 8;
  properties->minor = 0;
  properties->multiProcessorCount = 4;
  properties->totalGlobalMem = kMemory;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = kMemory;
  *free_bytes = kMemory - taken;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (*data == nullptr) return Failed(cudaErrorMemoryAllocation);
  std::memset(*data, 0xff, bytes);
  taken += malloc_usable_size(*data);
  return cudaSuccess;
}

// Waits for the device's work, as a GPU does.
cudaError_t cudaFree(void* data) {
  tandem::emulation::NoteFree(data);
  taken -= malloc_usable_size(data);
  return cudaFreeHost(data);
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  if (tandem::emulation::GetFaults().pinning_refused) return Failed(cudaErrorMemoryAllocation);
  const cudaError_t error = cudaMalloc(data, bytes);
  if (error == cudaSuccess) taken -= malloc_usable_size(*data);
  return error;
}
cudaError_t cudaFreeHost(void* data) {
  for (CUstream_st* stream : tandem::emulation::streams) Drain(stream);
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* dst, const void* src, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  if (bytes > 0) Enqueue(stream, [=] { std::memcpy(dst, src, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* dst, size_t dst_pitch, const void* src, size_t src_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  Enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(dst) + row * dst_pitch,
                  static_cast<const char*>(src) + row * src_pitch, width);
    }
  });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (bytes > 0) Enqueue(stream, [=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  tandem::emulation::streams.push_back(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Drain(stream);
  std::erase(tandem::emulation::streams, stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->captured != nullptr) return Failed(cudaErrorStreamCaptureUnsupported);
  Drain(stream);
  return cudaSuccess;
}

// Somebody looks, so that a step is made.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (!stream->queue.empty()) RunNext(stream);
  return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  Enqueue(stream, [=] { function(data); });
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  event->reached = std::make_shared<bool>(false);
  Enqueue(stream, [reached = event->reached] { *reached = true; });
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const std::shared_ptr<bool> reached = event->reached;
  while (!*reached) RunNext(event->stream);
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  // For the last record before now, whatever follows.
  EnqueueWaiting(stream, [reached = event->reached, recorded_on = event->stream] {
    if (!*reached && !tandem::emulation::ahead) RunNext(recorded_on);
    return *reached;
  });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->captured != nullptr) return Failed(cudaErrorIllegalState);
  stream->captured = std::make_unique<std::vector<tandem::emulation::Work>>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (stream->captured == nullptr) return Failed(cudaErrorIllegalState);
  *graph = new CUgraph_st{std::move(*stream->captured)};
  stream->captured = nullptr;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  if (tandem::emulation::GetFaults().graphs_refused) return Failed(cudaErrorNotSupported);
  *exec = new CUgraphExec_st{graph->work};
  taken += kGraphMemory;
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const tandem::emulation::Work& work : exec->work) EnqueueWaiting(stream, work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  taken -= kGraphMemory;
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return std::exchange(tandem::emulation::last_error, cudaSuccess); }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error of the emulated runtime";
}

}  // extern "C"
