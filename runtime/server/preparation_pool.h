// Threads that prepare requests, from bytes to tokens: gRPC's threads do not, so that connections,
// health and running streams never wait for a long prompt.
//
// Short requests have a thread or two of their own. Long ones have others, of lower priority than
// the model's threads, and wait for each other only. Within either kind the order is that of
// arrival. All share one budget of memory. An idle pool uses no CPU.
//
// Thread-safe.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"

namespace tandem::server {

inline constexpr uint64_t kDefaultPreparationBytes = uint64_t{128} << 20;

class PreparationPool {
 public:
  using Ticket = uint64_t;

  // What one request takes of the budget while it is prepared.
  class Memory {
   public:
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    ~Memory();
    // Waits until so much is free; requests that run now give it back in bounded time.
    // INVALID_ARGUMENT if it is more than all, CANCELLED if the pool stops. Once for a request.
    absl::Status Take(uint64_t bytes);

   private:
    friend class PreparationPool;
    explicit Memory(PreparationPool* pool) : pool_(pool) {}
    PreparationPool* const pool_;
    uint64_t taken_ = 0;
  };
  using Work = std::function<void(Memory& memory)>;

  // `memory_bytes` bounds what requests hold while they wait (a quarter) and while they are
  // prepared (the rest).
  explicit PreparationPool(uint64_t memory_bytes = kDefaultPreparationBytes);
  // Stops.
  ~PreparationPool();

  Ticket NewTicket();

  // Runs `work` once on a thread of the pool. `bytes` is what the request holds while it waits.
  // RESOURCE_EXHAUSTED if too many or too large requests wait already, UNAVAILABLE after Stop;
  // then `work` does not run.
  absl::Status Add(Ticket ticket, uint64_t bytes, Work work);

  // A request of so many bytes was received, for the pool or not: once it has been quiet for a
  // second, memory that was freed goes back to the system.
  void NoteReceived(uint64_t bytes);

  // True: the work has not begun and never will.
  bool Drop(Ticket ticket);

  // Drops what waits and ends the threads, after the work that they do now.
  void Stop();

 private:
  struct Waiting {
    Ticket ticket;
    uint64_t bytes;
    Work work;
  };
  struct Lane {
    std::deque<Waiting> waiting;
    std::condition_variable added;
  };

  void Serve(Lane& lane, bool of_long_ones);  // a thread
  // Of long requests: waits until there is one; returns freed memory to the system where the last
  // was a while ago. Needs `lock`.
  void WaitForLongOne(std::unique_lock<std::mutex>& lock);
  void GiveBack(uint64_t bytes);

  const uint64_t waiting_limit_;
  const uint64_t work_limit_;
  std::mutex mutex_;
  std::condition_variable given_back_;
  Lane short_;
  Lane long_;
  Ticket next_ticket_ = 1;
  uint64_t waiting_bytes_ = 0;
  uint64_t work_bytes_ = 0;
  bool trim_due_ = false;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace tandem::server
