// The link between the coordinator of a batch job and the leader of a replica: lines of JSON over
// TCP, on this host or another.
//
//   to the coordinator  {"secret": S, "replica": K}           first
//                       {"want": N}                           so many rows more
//                       {"steps": N}                          made so far, every few seconds
//                       {"k": KEY, "c": CHOICE, "t": [ids]}   new tokens
//                       {"k": KEY, "failed": BOOL, "line": LINE}    a row is over
//   to the leader       {"context": N}                        first: tokens of the longest row
//                       {"line": N, "text": ROW, "tokens": [[ids], ...]}    a row to run
//                       {"stop": true}    give up what runs     {"end": true}    no more rows
//
// Where the leader finds the coordinator is one word, "SECRET@PORT@ADDRESS@ADDRESS...", that goes
// through the environment or MPI: whoever has not got it is not listened to.
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
#include "runtime/batch/feed.h"

namespace tandem::batch {

// One end. Send from any thread, Receive from one. An end whose host has gone is found out within
// 15 s.
class LineSocket {
 public:
  // Takes over a connected TCP socket.
  explicit LineSocket(int fd);
  ~LineSocket();
  LineSocket(const LineSocket&) = delete;
  LineSocket& operator=(const LineSocket&) = delete;

  // UNAVAILABLE where none of the addresses leads to the coordinator.
  static absl::StatusOr<std::unique_ptr<LineSocket>> Connect(const std::string& coordinator,
                                                             int replica);

  absl::Status Send(const nlohmann::json& message);
  // Waits for the next message; nullopt when the other end has gone or sends no message.
  std::optional<nlohmann::json> Receive();
  // The first message: short, and soon.
  std::optional<nlohmann::json> ReceiveFirst();
  // Makes Receive return nullopt. Any thread.
  void Shutdown();

 private:
  std::optional<nlohmann::json> ReceiveUpTo(size_t bytes);
  const int fd_;
  std::mutex mutex_;
  std::string partial_;
};

// The coordinator's door.
class LinkListener {
 public:
  // On all addresses of this host, or on the loopback address alone.
  static absl::StatusOr<std::unique_ptr<LinkListener>> Open(bool for_other_hosts);
  ~LinkListener();
  LinkListener(const LinkListener&) = delete;
  LinkListener& operator=(const LinkListener&) = delete;

  const std::string& coordinator() const { return coordinator_; }
  // Waits for the next who knocks; null after Shutdown.
  std::unique_ptr<LineSocket> Accept() const;
  // The replica that a link's first message is of; nullopt for a stranger.
  std::optional<int> ReplicaOf(const nlohmann::json& first) const;
  void Shutdown() const;

 private:
  LinkListener(int fd, std::string secret, std::string coordinator)
      : fd_(fd), secret_(std::move(secret)), coordinator_(std::move(coordinator)) {}
  const int fd_;
  const std::string secret_, coordinator_;
};

// The leader's end as a feed. Rows are read again from their text.
class LinkFeed : public BatchFeed {
 public:
  // Waits for the coordinator's first word. `reader` outlives the feed.
  static absl::StatusOr<std::unique_ptr<LinkFeed>> Start(const std::string& coordinator,
                                                         int replica, const RowReader& reader);
  ~LinkFeed() override;

  int64_t context() const { return context_; }
  // Asks for rows until so many are there or on their way.
  void KeepAhead(int64_t rows);
  // That the engine has made so many: while it has rows, a number that stands still is a stall.
  void TellSteps(int64_t steps);

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

}  // namespace tandem::batch
