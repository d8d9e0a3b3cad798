#include "runtime/server/preparation_pool.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace tandem::server {
namespace {

// A request of this size is tokenized in some milliseconds.
constexpr uint64_t kShortBytes = 64 << 10;
// Of either kind. The engine's queue is the limit that callers meet; this one is for the other
// calls.
constexpr size_t kMostWaiting = 4096;
// Of 20: a long prompt gets what the model's threads leave.
constexpr int kLongNiceness = 10;
// Work that took this much leaves enough freed memory behind to be worth the milliseconds that
// returning it takes.
constexpr uint64_t kTrimBytes = 16 << 20;
constexpr std::chrono::seconds kQuiet{1};

int ThreadsOfAKind() { return std::thread::hardware_concurrency() >= 16 ? 2 : 1; }

}  // namespace

PreparationPool::Memory::~Memory() {
  if (taken_ > 0) pool_->GiveBack(taken_);
}

absl::Status PreparationPool::Memory::Take(uint64_t bytes) {
  TANDEM_CHECK(taken_ == 0);
  std::unique_lock lock(pool_->mutex_);
  if (bytes > pool_->work_limit_) {
    return absl::InvalidArgumentError(absl::StrCat(
        "request: needs up to ", bytes, " bytes of memory until it is tokens, allowed: ",
        "at most ", pool_->work_limit_, ", three quarters of --preparation-memory"));
  }
  pool_->given_back_.wait(
      lock, [&] { return pool_->stopped_ || bytes <= pool_->work_limit_ - pool_->work_bytes_; });
  if (pool_->stopped_) return absl::CancelledError("the server is shutting down");
  pool_->work_bytes_ += bytes;
  taken_ = bytes;
  return absl::OkStatus();
}

PreparationPool::PreparationPool(uint64_t memory_bytes)
    : waiting_limit_(memory_bytes / 4), work_limit_(memory_bytes - memory_bytes / 4) {
  for (int i = 0; i < ThreadsOfAKind(); ++i) {
    threads_.emplace_back([this] { Serve(short_, /*of_long_ones=*/false); });
    threads_.emplace_back([this] { Serve(long_, /*of_long_ones=*/true); });
  }
}

PreparationPool::~PreparationPool() { Stop(); }

PreparationPool::Ticket PreparationPool::NewTicket() {
  std::lock_guard lock(mutex_);
  return next_ticket_++;
}

absl::Status PreparationPool::Add(Ticket ticket, uint64_t bytes, Work work) {
  std::lock_guard lock(mutex_);
  if (stopped_) return absl::UnavailableError("the server is shutting down");
  Lane& lane = bytes <= kShortBytes ? short_ : long_;
  if (lane.waiting.size() >= kMostWaiting) {
    return absl::ResourceExhaustedError(absl::StrCat(
        lane.waiting.size(), " requests wait to be tokenized, allowed: at most ", kMostWaiting));
  }
  // A request alone may be larger.
  if (waiting_bytes_ > 0 && waiting_bytes_ + bytes > waiting_limit_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("requests of ", waiting_bytes_, " bytes wait to be tokenized, this one has ",
                     bytes, ", allowed: at most ", waiting_limit_, " together"));
  }
  waiting_bytes_ += bytes;
  lane.waiting.push_back({ticket, bytes, std::move(work)});
  lane.added.notify_one();
  return absl::OkStatus();
}

void PreparationPool::NoteReceived(uint64_t bytes) {
  if (bytes <= kShortBytes) return;
  std::lock_guard lock(mutex_);
  trim_due_ = true;
  long_.added.notify_one();
}

bool PreparationPool::Drop(Ticket ticket) {
  Waiting dropped;  // destroyed without the lock
  std::lock_guard lock(mutex_);
  for (Lane* lane : {&short_, &long_}) {
    const auto at = std::find_if(lane->waiting.begin(), lane->waiting.end(),
                                 [&](const Waiting& waiting) { return waiting.ticket == ticket; });
    if (at == lane->waiting.end()) continue;
    dropped = std::move(*at);
    lane->waiting.erase(at);
    waiting_bytes_ -= dropped.bytes;
    return true;
  }
  return false;
}

void PreparationPool::Stop() {
  std::deque<Waiting> dropped;  // destroyed without the lock
  std::vector<std::thread> threads;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    for (Lane* lane : {&short_, &long_}) {
      for (Waiting& waiting : lane->waiting) dropped.push_back(std::move(waiting));
      lane->waiting.clear();
      lane->added.notify_all();
    }
    waiting_bytes_ = 0;
    given_back_.notify_all();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void PreparationPool::Serve(Lane& lane, bool of_long_ones) {
  // Linux: of this thread alone. Without the right to do so it runs like the others.
  if (of_long_ones) (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kLongNiceness);
  std::unique_lock lock(mutex_);
  while (true) {
    if (of_long_ones) {
      WaitForLongOne(lock);
    } else {
      lane.added.wait(lock, [&] { return stopped_ || !lane.waiting.empty(); });
    }
    if (stopped_) return;
    Waiting next = std::move(lane.waiting.front());
    lane.waiting.pop_front();
    waiting_bytes_ -= next.bytes;
    lock.unlock();
    {
      Memory memory(this);
      next.work(memory);
      next.work = nullptr;
      // The allocator keeps freed memory of many small pieces for this thread.
      if (memory.taken_ >= kTrimBytes) malloc_trim(0);
    }
    lock.lock();
  }
}

void PreparationPool::WaitForLongOne(std::unique_lock<std::mutex>& lock) {
  const auto ready = [this] { return stopped_ || !long_.waiting.empty(); };
  while (!ready()) {
    long_.added.wait(lock, [&] { return ready() || trim_due_; });
    while (trim_due_ && !ready()) {
      trim_due_ = false;
      if (long_.added.wait_for(lock, kQuiet, [&] { return ready() || trim_due_; })) continue;
      lock.unlock();
      malloc_trim(0);
      lock.lock();
    }
  }
}

void PreparationPool::GiveBack(uint64_t bytes) {
  std::lock_guard lock(mutex_);
  work_bytes_ -= bytes;
  given_back_.notify_all();
}

}  // namespace tandem::server
