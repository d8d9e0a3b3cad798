// A replica's end of the link to the coordinator: rows that come over a gRPC stream, results that
// go back over it (proto/tandem/internal/v1/batch.proto).
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <queue>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/batch/link.h"
#include "runtime/batch/row_source.h"
#include "tandem/internal/v1/batch.grpc.pb.h"

namespace tandem::batch {

class CoordinatorLink : public RowSource {
 public:
  // Connects as `replica` and waits for the coordinator's welcome. `reader` outlives the link: rows
  // are read again from their text. UNAVAILABLE where none of the addresses leads to the
  // coordinator, UNAUTHENTICATED where the token is not its own.
  static absl::StatusOr<std::unique_ptr<CoordinatorLink>> Connect(const CoordinatorAddress& address,
                                                                  int replica,
                                                                  const RowReader& reader);
  // Waits a few seconds for the coordinator to take what was flushed.
  ~CoordinatorLink() override;

  // Tokens of the job's longest row, answer included.
  int64_t context() const;

  std::optional<Assignment> Next() override;
  void AddTokens(uint64_t key, int32_t choice, const std::vector<int32_t>& tokens) override;
  void Finish(uint64_t key, bool failed, std::string line) override;
  // Asks for rows until `rows` are here or on their way; reports the steps every few seconds.
  void ReportWorker(int64_t rows, int64_t steps) override;
  void Wait(std::chrono::milliseconds longest) override;
  // Sends all, and waits while the coordinator does not read. Always OK: a link that breaks is
  // stop_reason's.
  absl::Status Flush(bool with_tokens) override;
  // The coordinator decides how many rows this replica holds: no number of its own.
  int64_t rows_left() const override;
  bool all_done() const override;
  std::string stop_reason() const override;

 private:
  using Clock = std::chrono::steady_clock;
  using Stream =
      grpc::ClientReaderWriter<internal::v1::ReplicaMessage, internal::v1::CoordinatorMessage>;

  CoordinatorLink(std::shared_ptr<grpc::Channel> channel, const RowReader& reader)
      : channel_(std::move(channel)), reader_(reader) {}
  absl::Status Open(const std::string& token, int replica);
  void ReceiveAll();
  // False: this end cannot go on.
  bool Receive(const internal::v1::CoordinatorMessage& message);

  const std::shared_ptr<grpc::Channel> channel_;
  RowReader reader_;  // with the job's time, from the welcome on; only the receiving thread uses it
  grpc::ClientContext call_;
  std::unique_ptr<Stream> stream_;
  std::thread thread_;  // reads
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<int64_t> context_;  // once welcome
  std::queue<Assignment> rows_;
  std::vector<internal::v1::ReplicaMessage> outbox_;
  int64_t credit_ = 0;  // rows asked for that have not come
  int64_t open_ = 0;    // rows that came and are not finished
  Clock::time_point next_heartbeat_ = Clock::now();
  bool end_ = false;     // no more rows
  bool stop_ = false;    // the job stops early
  bool closed_ = false;  // the stream is over
  bool woken_ = false;
};

}  // namespace tandem::batch
