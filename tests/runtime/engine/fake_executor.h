// A stand-in for model and ranks whose logits are a pure function of a
// sequence's tokens, read back through the KV cache: each slot holds a digest
// of its token and of the digest before it, found through the block table. A
// wrong slot, block table, position, sharing or eviction gives other logits
// than Oracle, which never saw a cache.
#pragma once

#include <chrono>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <limits>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/ref_survey.h"

namespace tandem::engine {

inline uint64_t Mix(uint64_t x) {  // the finalizer of SplitMix64
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

inline uint64_t KvOf(uint64_t previous, int32_t token, int32_t position) {
  return Mix(previous + Mix(static_cast<uint64_t>(token) * 1000003 + position + 1));
}

// Logits in [-4, 4) from a digest of all keys and values.
inline void FillLogits(uint64_t digest, std::span<float> row) {
  for (size_t i = 0; i < row.size(); ++i) {
    row[i] = static_cast<float>(Mix(digest + i) >> 40) / float(1 << 21) - 4.0f;
  }
}

// What one choice of a request yields, computed from its tokens alone.
struct Expected {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::kNone;
  uint64_t logits_hash = 0;
};

inline Expected Oracle(const Request& request, int32_t choice, const EngineConfig& config) {
  Expected expected;
  Sampler sampler(config.vocab_size, config.eos_token_ids);
  Sample sample;
  LogitsHash hash;
  std::vector<int32_t> tokens = request.prompt_ids;
  std::vector<float> row(config.vocab_size);
  const size_t prompt = tokens.size();
  while (expected.finish == FinishReason::kNone) {
    uint64_t kv = 0;
    uint64_t digest = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      kv = KvOf(kv, tokens[i], static_cast<int32_t>(i));
      digest = Mix(digest ^ kv);
    }
    FillLogits(digest, row);
    hash.Update(row);
    const auto all = std::span<const int32_t>(tokens);
    if (!sampler
             .Run({.logits = row,
                   .params = request.sampling,
                   .prompt_ids = all.first(prompt),
                   .output_ids = all.subspan(prompt),
                   .choice = choice},
                  &sample)
             .ok()) {
      expected.finish = FinishReason::kError;
      break;
    }
    tokens.push_back(sample.token_id);
    expected.tokens.push_back(sample.token_id);
    if (sampler.IsStop(sample.token_id, request.sampling)) {
      expected.finish = FinishReason::kStop;
    } else if (static_cast<int32_t>(expected.tokens.size()) == request.sampling.max_tokens ||
               static_cast<int32_t>(tokens.size()) == config.max_model_len) {
      expected.finish = FinishReason::kLength;
    }
  }
  if (request.sampling.logits_hash) expected.logits_hash = hash.Digest();
  return expected;
}

class FakeExecutor : public StepExecutor, private RowSurveys {
 public:
  explicit FakeExecutor(const EngineConfig& config)
      : config_(config), kv_(size_t{16} * config.num_blocks, 0xdeadbeef) {}

  // Called at the start of each step, on the engine's thread.
  std::function<absl::Status(const StepPlan&)> before_step;
  // Rows whose sequence's last token is this one become NaN; -1: none.
  int32_t nan_token = -1;
  // Rows are surveyed where plans ask for it; see SurveyWith.
  int64_t surveyed_rows = 0, fetched_rows = 0;

  // From now on as an executor whose ranks have the ids [cuts[r], cuts[r + 1]).
  void SurveyWith(std::vector<int32_t> cuts, int32_t list_size) {
    survey_.emplace(std::move(cuts), list_size);
  }
  RowSurveys* surveys() override { return survey_ ? this : nullptr; }

  absl::Status Execute(const StepPlan& plan, std::span<float> out) override {
    step_.resize(out.size());
    const std::span<float> logits = step_;
    if (absl::Status status = Compute(plan, logits); !status.ok()) return status;
    if (plan.sampling.empty()) {
      std::copy(logits.begin(), logits.end(), out.begin());
      return absl::OkStatus();
    }
    survey_->Run(logits, parsed_.sampling);
    std::fill(out.begin(), out.end(), std::numeric_limits<float>::quiet_NaN());
    for (size_t row = 0; row < plan.sampling.size(); ++row) {
      if (plan.sampling[row].kind == kernels::SampleKind::kWhole) {
        Bring(row, out);
      } else {
        ++surveyed_rows;
      }
    }
    return absl::OkStatus();
  }

 private:
  int32_t candidates() const override { return survey_->list_size(); }
  std::span<const kernels::RankSurvey> Of(int32_t row) override { return survey_->Of(row); }
  absl::Status FetchRows(std::span<const int32_t> rows, std::span<float> out) override {
    for (const int32_t row : rows) Bring(row, out);
    fetched_rows += static_cast<int64_t>(rows.size());
    return absl::OkStatus();
  }

  void Bring(size_t row, std::span<float> out) const {
    const auto begin = static_cast<std::ptrdiff_t>(row * config_.vocab_size);
    std::copy_n(step_.begin() + begin, config_.vocab_size, out.begin() + begin);
  }

  absl::Status Compute(const StepPlan& plan, std::span<float> logits) {
    if (before_step) {
      if (absl::Status status = before_step(plan); !status.ok()) return status;
    }
    std::vector<std::byte> message;
    plan.Serialize(message);
    if (absl::Status status = parsed_.Parse(message); !status.ok()) return status;
    const model::StepInput in = parsed_.Input();
    if (in.num_tokens() > config_.max_batched_tokens || in.num_sequences() > config_.max_num_seqs ||
        in.num_rows() > MaxRows(config_) ||
        logits.size() != size_t(in.num_rows()) * config_.vocab_size) {
      return absl::InternalError("the plan breaks the configured bounds");
    }
    for (size_t m = 0; m < parsed_.block_moves.size(); m += 2) {
      const int32_t from = parsed_.block_moves[m], to = parsed_.block_moves[m + 1];
      for (int32_t i = 0; i < 16; ++i) {
        kv_.at(16 * to + i) = kv_.at(16 * from + i);
        kv_.at(16 * from + i) = 0xdeadbeef;
      }
    }
    int32_t row = 0;
    for (int32_t s = 0; s < in.num_sequences(); ++s) {
      const std::span<const int32_t> table =
          in.block_tables.subspan(size_t(s) * in.max_blocks, in.max_blocks);
      const int32_t context = in.context_lens[s];
      const int32_t count = in.cu_seqlens_q[s + 1] - in.cu_seqlens_q[s];
      const auto slot = [&](int32_t position) { return table[position / 16] * 16 + position % 16; };
      for (int32_t b = 0; b < in.max_blocks; ++b) {
        if ((b < (context + 15) / 16) != (table[b] >= 0)) {
          return absl::InternalError("a block table is not padded with -1 behind the context");
        }
      }
      for (int32_t i = 0; i < count; ++i) {
        const int32_t t = in.cu_seqlens_q[s] + i;
        const int32_t position = context - count + i;
        if (in.positions[t] != position || in.slot_mapping[t] != slot(position)) {
          return absl::InternalError("positions or slots do not fit the block table");
        }
        const uint64_t previous = position == 0 ? 0 : kv_.at(slot(position - 1));
        kv_.at(slot(position)) = KvOf(previous, in.token_ids[t], position);
        if (row == in.num_rows() || in.logits_indices[row] != t) continue;
        uint64_t digest = 0;
        for (int32_t p = 0; p <= position; ++p) digest = Mix(digest ^ kv_.at(slot(p)));
        const auto out = logits.subspan(size_t(row) * config_.vocab_size, config_.vocab_size);
        FillLogits(digest, out);
        if (in.token_ids[t] == nan_token) out[3] = std::nanf("");
        ++row;
      }
    }
    if (row != in.num_rows()) return absl::InternalError("logits_indices is not ascending");
    return absl::OkStatus();
  }

  const EngineConfig config_;
  std::vector<uint64_t> kv_;  // [slots]
  StepPlan parsed_;
  std::optional<RefSurvey> survey_;
  std::vector<float> step_;  // [rows, vocab] of the last step
};

// Collects the events of one request. Thread-safe.
class Collector {
 public:
  struct Choice {
    std::vector<int32_t> tokens;
    Event last;
    bool finished = false;
    int events = 0;
  };

  explicit Collector(int32_t n) : choices_(n) {}

  // Asked after each event, with the lock held; false ends the choice.
  std::function<bool(const Event&)> more;

  EventSink Sink() {
    return [this](const Event& event) {
      std::lock_guard lock(mutex_);
      Choice& choice = choices_.at(event.choice);
      if (choice.finished) after_finish_ = true;
      choice.tokens.insert(choice.tokens.end(), event.token_ids.begin(), event.token_ids.end());
      choice.last = event;
      ++choice.events;
      bool go_on = true;
      if (event.finish == FinishReason::kNone && more) go_on = more(event);
      choice.finished = event.finish != FinishReason::kNone || !go_on;
      done_.notify_all();
      return go_on;
    };
  }

  // False after 60 s: a test fails instead of hanging.
  bool Wait() {
    std::unique_lock lock(mutex_);
    return done_.wait_for(lock, std::chrono::seconds(60), [this] {
      for (const Choice& choice : choices_) {
        if (!choice.finished) return false;
      }
      return true;
    });
  }
  bool WaitForEvents(int count) {
    std::unique_lock lock(mutex_);
    return done_.wait_for(lock, std::chrono::seconds(60),
                          [&] { return choices_[0].events >= count; });
  }
  Choice choice(int32_t index = 0) {
    std::lock_guard lock(mutex_);
    return choices_.at(index);
  }
  bool event_after_finish() {
    std::lock_guard lock(mutex_);
    return after_finish_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  std::vector<Choice> choices_;
  bool after_finish_ = false;
};

// Engine statistics follow the events by a moment: waits for what `holds` says.
template <typename Predicate>
bool Eventually(const Engine& engine, Predicate holds) {
  for (int i = 0; i < 10000; ++i) {
    if (holds(engine.Stats())) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return false;
}

}  // namespace tandem::engine
