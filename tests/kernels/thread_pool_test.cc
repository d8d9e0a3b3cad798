// Regions of the thread pool: everything runs once, whatever the threads do.
#include "kernels/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/support/idle_cpu.h"

namespace tandem::kernels {
namespace {

TEST(ThreadPool, RunsEachThreadOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    std::vector<int> calls(threads);
    for (int region = 0; region < 200; ++region) pool.Run([&](int thread) { ++calls[thread]; });
    EXPECT_EQ(calls, std::vector<int>(threads, 200));
  }
}

TEST(ThreadPool, ParallelForCoversEveryItemOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (int64_t items : {0, 1, 2, 7, 64, 1000}) {
      for (int64_t grain : {1, 3, 16, 2000}) {
        std::vector<std::atomic<int>> calls(items);
        pool.ParallelFor(items, grain, [&](int thread, int64_t begin, int64_t end) {
          EXPECT_GE(thread, 0);
          EXPECT_LT(thread, threads);
          EXPECT_LT(begin, end);
          EXPECT_TRUE(threads == 1 || items <= grain || end - begin <= grain);
          for (int64_t i = begin; i < end; ++i) calls[i].fetch_add(1);
        });
        for (const auto& count : calls) ASSERT_EQ(count.load(), 1) << items << " by " << grain;
      }
    }
  }
}

TEST(ThreadPool, OthersTakeTheShareOfOneThatIsHeldUp) {
  ThreadPool pool(2);
  // One thread is stuck in its first piece until the other has done all the rest.
  std::atomic<int> done{0};
  std::atomic<int> stuck{-1};
  pool.ParallelFor(100, 1, [&](int thread, int64_t, int64_t) {
    int nobody = -1;
    if (stuck.compare_exchange_strong(nobody, thread)) {
      while (done.load() < 99) std::this_thread::yield();
    }
    done.fetch_add(1);
  });
  EXPECT_EQ(done.load(), 100);
}

TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(4);
  pool.Run([](int) {});
  EXPECT_LT(testing::IdleCpuSeconds(std::chrono::milliseconds(100)), 0.01);
}

}  // namespace
}  // namespace tandem::kernels
