// An EngineClient without a model: it answers with the prompt's own tokens, round and round, one
// per request and step, on one thread as the real one does. Steps run freely, or only as many as
// Allow() permits.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/engine/engine_client.h"

namespace tandem::server {

class FakeEngine final : public engine::EngineClient {
 public:
  static constexpr int32_t kVocabSize = 258;  // bytes, <s>, </s>; see byte_tokenizer.h
  static constexpr int32_t kEos = 257;
  static constexpr int32_t kMaxModelLen = 5000;

  explicit FakeEngine(int64_t allowed_steps = std::numeric_limits<int64_t>::max())
      : allowed_(allowed_steps), thread_([this] { Run(); }) {}

  ~FakeEngine() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      wake_.notify_all();
    }
    thread_.join();
  }

  absl::StatusOr<engine::RequestId> Submit(engine::Request request,
                                           engine::EventSink sink) override {
    std::lock_guard lock(mutex_);
    if (!refuse_.ok()) return refuse_;
    const engine::RequestId id = next_id_++;
    submitted_.push_back(request);
    open_.emplace(id, Open{std::move(request), std::move(sink)});
    wake_.notify_all();
    return id;
  }

  void Cancel(engine::RequestId id) override {
    std::lock_guard lock(mutex_);
    if (open_.count(id) != 0) cancels_.insert(id);
    wake_.notify_all();
  }

  engine::EngineStats Stats() const override {
    engine::EngineStats stats;
    std::lock_guard lock(mutex_);
    stats.waiting = waiting_;
    return stats;
  }
  engine::EngineLimits Limits() const override { return {kVocabSize, kMaxModelLen, 1024}; }

  // Controls, from the test's thread.
  void Allow(int64_t steps) {
    std::lock_guard lock(mutex_);
    allowed_ = steps;
    wake_.notify_all();
  }
  void RefuseWith(absl::Status status) {
    std::lock_guard lock(mutex_);
    refuse_ = std::move(status);
  }
  // What Stats says; the limit is 1024.
  void SetWaiting(int64_t waiting) {
    std::lock_guard lock(mutex_);
    waiting_ = waiting;
  }
  // The next event of every request is this error.
  void FailWith(absl::Status status) {
    std::lock_guard lock(mutex_);
    fail_ = std::move(status);
    wake_.notify_all();
  }
  std::vector<engine::Request> submitted() const {
    std::lock_guard lock(mutex_);
    return submitted_;
  }
  int64_t cancelled() const {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }
  // False if requests remain open for 5 s.
  bool WaitEmpty() {
    std::unique_lock lock(mutex_);
    return emptied_.wait_for(lock, std::chrono::seconds(5), [this] { return open_.empty(); });
  }

 private:
  struct Open {
    engine::Request request;
    engine::EventSink sink;
    int32_t made = 0;
  };

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] {
        return stop_ || !cancels_.empty() || (!open_.empty() && (allowed_ > 0 || !fail_.ok()));
      });
      if (stop_) return;
      const bool steps = allowed_ > 0;
      if (steps) --allowed_;
      // As the real one: sinks are called without the lock, so that they may call Cancel.
      std::vector<std::pair<engine::RequestId, Open>> batch;
      for (auto& [id, open] : open_) {
        if (steps || !fail_.ok() || cancels_.count(id) != 0) batch.emplace_back(id, open);
      }
      const std::set<engine::RequestId> cancels = std::exchange(cancels_, {});
      const absl::Status fail = fail_;
      lock.unlock();
      std::vector<engine::RequestId> over;
      int64_t cancelled = 0;
      for (auto& [id, open] : batch) {
        engine::Event event;
        event.request = id;
        if (cancels.count(id) != 0) {
          event.finish = engine::FinishReason::kCancelled;
          ++cancelled;
        } else if (!fail.ok()) {
          event.finish = engine::FinishReason::kError;
          event.status = fail;
        } else {
          NextToken(open, &event);
        }
        const bool go_on = open.sink(event);
        if (!go_on || event.finish != engine::FinishReason::kNone) over.push_back(id);
      }
      lock.lock();
      cancelled_ += cancelled;
      for (const auto& [id, open] : batch) {
        const auto at = open_.find(id);
        if (at != open_.end()) at->second.made = open.made;
      }
      for (const engine::RequestId id : over) open_.erase(id);
      batch.clear();
      if (open_.empty()) emptied_.notify_all();
    }
  }

  static void NextToken(Open& open, engine::Event* event) {
    const auto& prompt = open.request.prompt_ids;
    const int32_t skip = prompt.front() == 256 && prompt.size() > 1 ? 1 : 0;  // the <s>
    const auto size = static_cast<int32_t>(prompt.size()) - skip;
    const int32_t token = prompt[skip + open.made % size];
    ++open.made;
    event->token_ids = {token};
    if (open.request.sampling.logprobs >= 0) {
      event->chosen_logprobs = {{token, -0.5f}};
      event->top_logprobs = {
          std::vector<engine::TokenLogprob>(open.request.sampling.logprobs, {kEos, -0.25f})};
    }
    if (token == kEos) {
      event->ended_by_token = true;
      event->finish = engine::FinishReason::kStop;
    } else if (open.made >= open.request.sampling.max_tokens) {
      event->finish = engine::FinishReason::kLength;
    }
    if (event->finish != engine::FinishReason::kNone) {
      event->prompt_tokens = static_cast<int32_t>(prompt.size());
      event->completion_tokens = open.made;
      event->timings = {0.25, 1.5, 2.75};
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable emptied_;
  std::map<engine::RequestId, Open> open_;
  std::set<engine::RequestId> cancels_;
  std::vector<engine::Request> submitted_;
  engine::RequestId next_id_ = 1;
  int64_t allowed_;
  int64_t cancelled_ = 0;
  int64_t waiting_ = 0;
  absl::Status refuse_;
  absl::Status fail_;
  bool stop_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace tandem::server
