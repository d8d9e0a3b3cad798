#include "kernels/base/thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/base/check.h"
#include "kernels/base/spin.h"

namespace tandem::kernels {
namespace {

// A waiting thread spins for this long, which bridges the gaps between the operations of a step,
// and then sleeps. It never yields: another process that computes would keep the core for a whole
// time slice, while a thread that sleeps gets it back when it is woken. With fewer cores than
// threads it sleeps at once.
constexpr std::chrono::microseconds kSpin{30};

// CPUs that the threads may run on: those they are bound to, or the caller's.
int CpuCount(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) CPU_SET(cpu, &set);
  if (cpus.empty()) sched_getaffinity(0, sizeof(set), &set);
  return CPU_COUNT(&set);
}

void Futex(std::atomic<uint32_t>& word, int operation, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, nullptr, nullptr, 0);
}

}  // namespace

uint32_t ThreadPool::Signal::AwaitChange(uint32_t old, std::chrono::microseconds spin) {
  constexpr int kLooks = 32;  // between two readings of the clock
  const auto limit = std::chrono::steady_clock::now() + spin;
  do {
    for (int look = 0; look < kLooks; ++look) {
      const uint32_t now = value.load(std::memory_order_acquire);
      if (now != old) return now;
      SpinPause();
    }
  } while (std::chrono::steady_clock::now() < limit);
  // A thread that changes the value from here on sees the sleeper; the kernel sees changes from
  // before.
  sleepers.fetch_add(1);
  for (;;) {
    const uint32_t now = value.load();
    if (now != old) {
      sleepers.fetch_sub(1, std::memory_order_relaxed);
      return now;
    }
    Futex(value, FUTEX_WAIT_PRIVATE, old);
  }
}

void ThreadPool::Signal::Wake() {
  if (sleepers.load() != 0) Futex(value, FUTEX_WAKE_PRIVATE, std::numeric_limits<int>::max());
}

ThreadPool::ThreadPool(int threads, std::vector<int> cpus, bool spin)
    : spin_(spin && threads <= CpuCount(cpus) ? kSpin : std::chrono::microseconds{0}) {
  TANDEM_CHECK(threads >= 1);
  cursors_ = std::make_unique<Cursor[]>(threads);
  for (int t = 1; t < threads; ++t) {
    workers_.emplace_back([this, t] { Work(t); });
    if (static_cast<int>(cpus.size()) > t) {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpus[t], &set);
      // A container may forbid binding; the thread then stays unbound.
      pthread_setaffinity_np(workers_.back().native_handle(), sizeof(set), &set);
    }
  }
}

ThreadPool::~ThreadPool() {
  order_.stop = true;
  order_.signal.value.fetch_add(1);
  order_.signal.Wake();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Run(absl::FunctionRef<void(int)> task) {
  if (workers_.empty()) {
    task(0);
    return;
  }
  running_.value.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  order_.task.emplace(task);
  order_.signal.value.fetch_add(1);
  order_.signal.Wake();
  task(0);
  for (uint32_t left = running_.value.load(std::memory_order_acquire); left != 0;) {
    left = running_.AwaitChange(left, spin_);
  }
}

void ThreadPool::ParallelFor(int64_t items, int64_t grain,
                             absl::FunctionRef<void(int thread, int64_t begin, int64_t end)> body) {
  TANDEM_CHECK(grain > 0);
  if (items <= 0) return;
  const int threads = size();
  if (threads == 1 || items <= grain) {
    body(0, 0, items);
    return;
  }
  for (int t = 0; t < threads; ++t) {
    const ItemRange range = EvenRange(items, t, threads);
    cursors_[t].next.store(range.begin, std::memory_order_relaxed);
    cursors_[t].end = range.end;
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
    seen = order_.signal.AwaitChange(seen, spin_);
    if (order_.stop) return;
    (*order_.task)(thread);
    if (running_.value.fetch_sub(1) == 1) running_.Wake();
  }
}

}  // namespace tandem::kernels
