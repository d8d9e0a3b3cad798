#include "kernels/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

#include "kernels/base/check.h"

namespace tandem::kernels {
namespace {

// A waiting thread spins for this long, which bridges the gaps between the
// operations of a step ...
constexpr std::chrono::microseconds kSpin{10};
// ... then offers its core to whoever wants it between looks, which bridges the
// gaps between steps, and then sleeps.
constexpr std::chrono::microseconds kYield{100};

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Waits until value differs from old.
uint32_t WaitChange(std::atomic<uint32_t>& value, uint32_t old) {
  constexpr int kLooks = 32;  // between two questions for the time
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int look = 0; look < kLooks; ++look) {
      const uint32_t now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      Pause();
    }
    const auto waited = std::chrono::steady_clock::now() - start;
    if (waited > kYield) break;
    if (waited > kSpin) std::this_thread::yield();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads, std::vector<int> cpus) {
  TANDEM_CHECK(threads >= 1);
  cursors_ = std::make_unique<Cursor[]>(threads);
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
  order_.stop = true;
  order_.generation.fetch_add(1, std::memory_order_release);
  order_.generation.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(absl::FunctionRef<void(int)> task) {
  if (workers_.empty()) {
    task(0);
    return;
  }
  running_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  order_.task.emplace(task);
  order_.generation.fetch_add(1, std::memory_order_release);
  order_.generation.notify_all();
  task(0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;) {
    left = WaitChange(running_, left);
  }
}

void ThreadPool::ParallelFor(
    int64_t items, int64_t grain,
    absl::FunctionRef<void(int thread, int64_t begin, int64_t end)> body) {
  TANDEM_CHECK(grain > 0);
  if (items <= 0) return;
  const int threads = size();
  if (threads == 1 || items <= grain) {
    body(0, 0, items);
    return;
  }
  for (int t = 0; t < threads; ++t) {
    const Share share = ShareOf(items, t, threads);
    cursors_[t].next.store(share.begin, std::memory_order_relaxed);
    cursors_[t].end = share.end;
  }
  Run([&](int thread) {
    for (int i = 0; i < threads; ++i) {
      Cursor& cursor = cursors_[(thread + i) % threads];
      for (;;) {
        const int64_t begin = cursor.next.fetch_add(grain, std::memory_order_relaxed);
        if (begin >= cursor.end) break;
        body(thread, begin, std::min(begin + grain, cursor.end));
      }
    }
  });
}

void ThreadPool::Work(int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = WaitChange(order_.generation, seen);
    if (order_.stop) return;
    (*order_.task)(thread);
    if (running_.fetch_sub(1, std::memory_order_release) == 1) running_.notify_one();
  }
}

}  // namespace tandem::kernels
