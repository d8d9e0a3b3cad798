// Threads made once. While they are awake, a parallel region costs two cache-line exchanges.
// Workers spin briefly for the next region and then sleep, so an idle process uses no CPU.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace tandem::kernels {

class ThreadPool {
 public:
  // threads >= 1, the caller's own included. cpus, when not empty, has the CPU that each thread is
  // bound to; the caller is not moved. Waiting threads sleep at once if !spin or if there are fewer
  // CPUs than threads.
  explicit ThreadPool(int threads, std::vector<int> cpus = {}, bool spin = true);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(0) ... task(size() - 1), each on its own thread (0 on the
  // caller's), and returns when all have returned. Not reentrant.
  void Run(absl::FunctionRef<void(int thread)> task);

  // Calls body on ranges of at most `grain` items that make up [0, items). Each thread first works
  // through its own contiguous part in order, so that it reads one stream, and then takes ranges
  // of the other threads' parts: a thread whose core is taken away delays the others by one range.
  // Up to `grain` items are done by the caller alone. Which thread takes a range is left to
  // chance: results must not depend on it.
  void ParallelFor(int64_t items, int64_t grain,
                   absl::FunctionRef<void(int thread, int64_t begin, int64_t end)> body);

 private:
  struct alignas(64) Cursor {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void Work(int thread);

  const std::chrono::microseconds spin_;
  std::vector<std::thread> workers_;
  std::unique_ptr<Cursor[]> cursors_;  // [size()], of ParallelFor
  // A number that threads wait for.
  struct Signal {
    std::atomic<uint32_t> value{0};
    std::atomic<uint32_t> sleepers{0};
    uint32_t AwaitChange(uint32_t old, std::chrono::microseconds spin);  // returns the new value
    void Wake();                                                         // after a change
  };

  // What a worker needs to start is in one cache line, its answer in another.
  struct alignas(64) Order {
    Signal signal;  // counts regions
    bool stop = false;
    std::optional<absl::FunctionRef<void(int)>> task;
  };
  Order order_;
  alignas(64) Signal running_;  // workers that have not answered
};

// Items [begin, end) of the thread, where `items` are divided evenly.
struct ItemRange {
  int64_t begin;
  int64_t end;
};
inline ItemRange EvenRange(int64_t items, int thread, int threads) {
  return {items * thread / threads, items * (thread + 1) / threads};
}

}  // namespace tandem::kernels
