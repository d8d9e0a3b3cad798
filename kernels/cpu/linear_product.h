// Linear products over a thread pool: how a product's work is divided among threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/base/thread_pool.h"
#include "kernels/cpu/cpu_weights.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/device_memory.h"

namespace tandem::kernels::cpu {

// Owns memory for activations and the threads' scratch.
class LinearProduct {
 public:
  // The pool outlives this.
  LinearProduct(ThreadPool& pool, const LinearKernels& kernels)
      : pool_(pool), kernels_(kernels), threads_(pool.size()) {}

  // Before products of the spec: memory for its activations. RESOURCE_EXHAUSTED without room.
  absl::Status Reserve(const LinearSpec& spec);
  // See Operations::Linear.
  void Multiply(const CpuLinearWeight& weight, const float* x, int64_t tokens, const float* bias,
                float* y);

 private:
  int64_t TokensAtATime(const CpuLinearWeight& weight, int64_t tokens) const;
  // The tokens of args.x, whose activations are x [tokens, columns] and fit the memory.
  void MultiplyChunk(const CpuLinearWeight& weight, const float* x, int64_t tokens,
                     const LinearArgs& args);
  // At least `floats` floats of the thread's own; grows to the largest need once.
  float* Scratch(int thread, size_t floats);

  // On cache lines of its own, since its thread writes it during a product.
  struct alignas(64) ThreadState {
    std::vector<float> scratch;
    bool packed = false;  // has its own copy of the activations
  };

  ThreadPool& pool_;
  const LinearKernels kernels_;
  const bool prefetches_ = NeedsSoftwarePrefetch();
  std::vector<ThreadState> threads_;
  Buffer activations_;
};

}  // namespace tandem::kernels::cpu
