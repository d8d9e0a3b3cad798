// Threads made once; a parallel region costs two cache-line exchanges while they
// are awake. Workers spin briefly for the next region, then sleep, so an idle
// process uses no CPU.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tandem::kernels {

class ThreadPool {
 public:
  // threads >= 1, the caller's own included. cpus, when not empty, names one CPU
  // for each thread to be bound to; the caller is not moved.
  explicit ThreadPool(int threads, std::vector<int> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(0) ... task(size() - 1), each on its own thread (0 on the
  // caller's), and returns when all have returned. Not reentrant.
  void Run(absl::FunctionRef<void(int thread)> task);

 private:
  void Work(int thread);

  std::vector<std::thread> workers_;
  const absl::FunctionRef<void(int)>* task_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<uint32_t> running_{0};
  std::atomic<bool> stop_{false};
};

// Items [begin, end) of thread's even share of `items`.
struct Share {
  int64_t begin;
  int64_t end;
};
inline Share ShareOf(int64_t items, int thread, int threads) {
  return {items * thread / threads, items * (thread + 1) / threads};
}

}  // namespace tandem::kernels
