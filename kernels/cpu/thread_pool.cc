#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <chrono>

#include "kernels/base/check.h"

namespace tandem::kernels {
namespace {

// Long enough to bridge the gaps between the operations of a step, short enough
// that ranks sharing a core lose little to it.
constexpr std::chrono::microseconds kSpin{50};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits until value differs from old: spins, then sleeps.
uint32_t WaitChange(std::atomic<uint32_t>& value, uint32_t old) {
  const auto limit = std::chrono::steady_clock::now() + kSpin;
  for (int round = 0;; ++round) {
    const uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    Pause();
    if (round % 64 == 63 && std::chrono::steady_clock::now() > limit) break;
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::vector<int> cpus) {
  TANDEM_CHECK(threads >= 1);
  for (int t = 1; t < threads; ++t) {
    workers_.emplace_back([this, t] { Work(t); });
    if (static_cast<int>(cpus.size()) > t) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpus[t], &set);
      // Binding is a wish: a container may forbid it.
      pthread_setaffinity_np(workers_.back().native_handle(), sizeof(set), &set);
    }
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(absl::FunctionRef<void(int)> task) {
  if (workers_.empty()) {
    task(0);
    return;
  }
  task_ = &task;
  running_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  task(0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;) {
    left = WaitChange(running_, left);
  }
}

void ThreadPool::Work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = WaitChange(generation_, seen);
    if (stop_.load(std::memory_order_relaxed)) return;
    (*task_)(thread);
    if (running_.fetch_sub(1, std::memory_order_release) == 1) running_.notify_one();
  }
}

}  // namespace tandem::kernels
