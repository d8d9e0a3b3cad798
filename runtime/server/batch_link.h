// The link between the coordinator of a batch job and the leader of a replica: lines of JSON over a
// local stream socket.
//
//   to the leader       {"context": N}                        first: tokens of the longest row
//                       {"line": N, "text": ROW, "tokens": [[ids], ...]}    a row to run
//                       {"stop": true}    give up what runs     {"end": true}    no more rows
//   to the coordinator  {"want": N}                           so many rows more
//                       {"k": KEY, "c": CHOICE, "t": [ids]}   new tokens
//                       {"k": KEY, "failed": BOOL, "line": LINE}    a row is over
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/server/batch_feed.h"

namespace tandem::server {

// One end. Send from any thread, Receive from one.
class LineSocket {
 public:
  explicit LineSocket(int fd) : fd_(fd) {}
  ~LineSocket();
  LineSocket(const LineSocket&) = delete;
  LineSocket& operator=(const LineSocket&) = delete;

  // UNAVAILABLE where the other end has gone.
  static absl::StatusOr<std::unique_ptr<LineSocket>> Connect(const std::string& path);

  absl::Status Send(const nlohmann::json& message);
  // Waits for the next message; nullopt when the other end has gone.
  std::optional<nlohmann::json> Receive();
  // Makes Receive return nullopt.
  void Shutdown();

 private:
  const int fd_;
  std::mutex mutex_;
  std::string partial_;
};

// The leader's end as a feed. Rows are read again from their text.
class LinkFeed : public BatchFeed {
 public:
  // Waits for the coordinator's first word. `reader` outlives the feed; at most `window` choices
  // are asked for and not over.
  static absl::StatusOr<std::unique_ptr<LinkFeed>> Start(const std::string& path,
                                                         const RowReader& reader);
  ~LinkFeed() override;

  int64_t context() const { return context_; }
  // Asks for rows until so many are there or on their way.
  void KeepAhead(int64_t rows);

  std::optional<Assignment> Next() override;
  void AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) override;
  void Finish(uint64_t key, bool failed, std::string line) override;
  void Wait(std::chrono::milliseconds longest) override;
  absl::Status Flush(bool with_tokens) override;
  bool all_done() const override;
  std::string stop_reason() const override;

 private:
  LinkFeed(std::unique_ptr<LineSocket> socket, const RowReader& reader)
      : socket_(std::move(socket)), reader_(reader) {}
  void ReceiveAll();

  const std::unique_ptr<LineSocket> socket_;
  const RowReader& reader_;
  int64_t context_ = 0;
  std::thread thread_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<Assignment> rows_;
  std::vector<nlohmann::json> outbox_;
  int64_t wanted_ = 0;  // asked for, not come
  int64_t open_ = 0;    // come, not over
  bool end_ = false;
  bool stop_ = false;
  bool lost_ = false;
  bool woken_ = false;
};

}  // namespace tandem::server
