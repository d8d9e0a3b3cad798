// Runs rows of a batch job on one replica's engine and tells what comes of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/batch/row.h"
#include "runtime/engine/engine_client.h"
#include "runtime/text/tokenizer/tokenizer.h"

namespace tandem::batch {

// Where results go. Called on the engine's thread and on Start's; must not block.
struct BatchSink {
  std::function<void(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens)> tokens;
  std::function<void(uint64_t key, bool failed, std::string line)> finish;
};

class BatchWorker {
 public:
  // All borrowed things outlive it; tokenizer may be null. The engine must have ended all requests
  // before the worker goes.
  BatchWorker(engine::EngineClient& engine, const tokenizer::Tokenizer* tokenizer,
              std::string model_name, BatchSink sink)
      : engine_(engine),
        tokenizer_(tokenizer),
        model_(std::move(model_name)),
        sink_(std::move(sink)) {}

  // Begins a row, or goes on with it where its choices have tokens already. A row that the engine
  // refuses is over at once. UNAVAILABLE where the engine takes nothing more.
  absl::Status Start(const BatchRow& row, std::vector<std::vector<int32_t>> tokens);

  // Choices that are open.
  int64_t open_choices() const { return open_choices_.load(); }
  void CancelAll();

 private:
  struct Running;
  bool OnEvent(const std::shared_ptr<Running>& running, int32_t choice, const engine::Event& event);

  engine::EngineClient& engine_;
  const tokenizer::Tokenizer* const tokenizer_;
  const std::string model_;
  const BatchSink sink_;
  std::atomic<int64_t> open_choices_{0};
  std::mutex mutex_;
  std::map<uint64_t, std::vector<engine::RequestId>> requests_;  // by row
};

}  // namespace tandem::batch
