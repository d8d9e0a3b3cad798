// One Generate stream. The engine's thread hands in events and must not wait; gRPC's threads write
// messages, one at a time. Events that arrive during a write are merged into the next message, up
// to a size that clients accept by default, so a slow reader costs memory for its own answer
// (bounded by max_tokens) and nothing else.
//
// Lifetime: the call owns itself from Create until gRPC's OnDone; the engine's sink holds another
// reference for as long as the engine keeps it. After Finish no gRPC operation is started, so an
// event that comes late finds a live object and is dropped.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "runtime/engine/engine_client.h"
#include "runtime/server/choice_answer.h"
#include "runtime/server/request_metrics.h"
#include "tandem/v1/inference.pb.h"

namespace tandem::server {

class GenerateCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<GenerateCall> {
 public:
  // `on_done` is called once, on a gRPC thread, when gRPC is through with the call. `metrics`
  // lives until then.
  static std::shared_ptr<GenerateCall> Create(RequestMetrics* metrics,
                                              std::function<void(GenerateCall*)> on_done);

  // Until Start: `deadline` says what kind of end a cancellation is, `abandon` is called once the
  // call has ended, on any thread. Before any other thread knows the call.
  void Prepare(std::optional<engine::Clock::time_point> deadline, std::function<void()> abandon);

  // How the call ends is decided: nothing more needs to be done for it. Any thread.
  bool ended() const;

  // Hands the request to the engine, unless the call has ended; its refusal ends the stream.
  // `engine` must live until on_done, and so must `tokenizer`, which is null for a model without
  // one (then there are no stop texts). Once only.
  void Start(engine::EngineClient* engine, engine::Request request, StopTexts stops,
             const tokenizer::Tokenizer* tokenizer);

  // Ends the stream with an error, after the write under way; the engine drops the request.
  // Does nothing for a call that has ended. Any thread.
  void End(const absl::Status& status);

 private:
  GenerateCall(RequestMetrics* metrics, std::function<void(GenerateCall*)> on_done)
      : metrics_(metrics), on_done_(std::move(on_done)) {}

  struct Choice {
    std::optional<ChoiceAnswer> answer;     // from Start on
    std::deque<v1::GenerateResponse> full;  // not yet handed to gRPC, before pending
    v1::GenerateResponse pending;           // likewise; grows
    size_t pending_bytes = 0;               // about, as serialized
    bool has_pending = false;
    bool done = false;
    bool waits() const { return has_pending || !full.empty(); }
    // An empty `pending` in place of the one returned.
    v1::GenerateResponse TakePending();
  };

  // On the engine's thread. False: the choice takes no more events.
  bool OnEvent(const engine::Event& event);
  // Adds the event's tokens, text and log-probabilities to the pending message. Returns whether the
  // choice goes on. Needs mutex_.
  bool AddEventLocked(const engine::Event& event, Choice& choice);
  // The choice's answer is complete; with the last one the stream is. Needs mutex_.
  void FinishChoiceLocked(const engine::Event& event, Choice& choice);
  void ChoiceDoneLocked(Choice& choice);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // Sets how the stream ends, if that is not decided yet. Needs mutex_.
  void DecideLocked(grpc::Status status, bool drop_pending);
  // Counts what was decided. Needs mutex_.
  void CountLocked();
  void DropPendingLocked();
  // The choice whose message goes next; null where there is none. Needs mutex_.
  Choice* NextLocked();
  // Starts the next operation, if one may be started. Needs mutex_.
  void AdvanceLocked();
  // Outside mutex_: the engine may call the sink meanwhile.
  void CancelInEngine();

  RequestMetrics* const metrics_;
  const engine::Clock::time_point arrived_ = engine::Clock::now();
  const std::function<void(GenerateCall*)> on_done_;
  std::shared_ptr<GenerateCall> self_;  // until OnDone

  mutable std::mutex mutex_;
  std::function<void()> abandon_;
  engine::EngineClient* engine_ = nullptr;
  std::optional<engine::RequestId> request_id_;  // once Submit has returned
  std::optional<engine::Clock::time_point> deadline_;
  bool engine_done_ = false;  // all choices have finished, or Submit refused
  const tokenizer::Tokenizer* tokenizer_ = nullptr;
  std::vector<Choice> choices_;
  size_t open_choices_ = 0;
  size_t next_choice_ = 0;  // the first that may write: they take turns
  size_t last_choice_ = 0;  // its message ends the stream
  v1::Usage usage_;
  engine::Timings timings_;
  bool cut_ = false;                 // a choice reached its length
  bool writing_ = false;             // `buffer_` is gRPC's
  std::optional<grpc::Status> end_;  // decided; Finish may have to wait for a write
  bool finished_ = false;            // Finish was called: gRPC may be touched no more
  grpc::ByteBuffer buffer_;
};

}  // namespace tandem::server
