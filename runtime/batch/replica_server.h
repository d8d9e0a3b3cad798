// The coordinator's end of the links to replicas in other processes: a gRPC service that replicas
// connect to. Sends rows to them and takes their results. When a replica dies or stalls, its rows
// go back to the coordinator, which gives them to the others.
#pragma once

#include <grpcpp/server.h>

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/batch/coordinator.h"
#include "runtime/batch/link.h"
#include "runtime/batch/pump.h"
#include "runtime/batch/row.h"
#include "runtime/batch/timing.h"
#include "tandem/internal/v1/batch.grpc.pb.h"

namespace tandem::batch {

class ReplicaServer : public Worker {
 public:
  struct Options {
    int replicas = 1;              // of the job
    bool has_own = false;          // replica 0 is in this process: no link leads to it
    int64_t context = 0;           // tokens of the longest row, answer included
    PromptTime time;               // of all prompts
    bool for_other_hosts = false;  // listen on all addresses of this host, not on loopback alone
    std::chrono::milliseconds stall = kReplicaStall;
    int max_message_bytes = kMaxLinkMessageBytes;
  };

  // Listens on a free port. Starts threads of gRPC: no fork may follow, unless an exec follows at
  // once. `coordinator` outlives the server. UNAVAILABLE where it cannot listen.
  static absl::StatusOr<std::unique_ptr<ReplicaServer>> Start(BatchCoordinator& coordinator,
                                                              const Options& options);
  // Closes all links.
  ~ReplicaServer() override;

  const CoordinatorAddress& address() const { return address_; }

  // Those in other processes that have not died.
  int replicas() const override;
  // Sends rows to replicas that have credit for them; never waits for a replica. Always OK.
  absl::Status TakeRows(RowSource& source, int64_t most) override;

  // Replicas that were found stalled, each once: their processes are still there.
  std::vector<int> TakeStalled();
  // Its process has ended.
  void ReportDead(int replica);
  int dead() const;

  // The job ends, with all rows done or before. From now on a replica that goes is not dead.
  void End(bool all_done);

 private:
  using Clock = std::chrono::steady_clock;
  class Link;
  class Service;
  // A write to start when mutex_ is released.
  struct Send {
    Link* link;
    const internal::v1::CoordinatorMessage* message;
  };

  ReplicaServer(BatchCoordinator& coordinator, const Options& options);
  absl::Status Listen();

  // Of links. Open: null where the call is refused, with the reason.
  Link* Open(grpc::CallbackServerContext& context, grpc::Status& refused);
  void Receive(Link& link, const internal::v1::ReplicaMessage& message);
  void Forget(Link& link);

  // mutex_ is held.
  void Queue(Link& link, internal::v1::CoordinatorMessage message, std::vector<Send>& sends);
  bool IsStalled(const Link& link) const;
  void GiveRows(Link& link, RowSource& source, int64_t most, std::vector<Send>& sends);
  void CountDead(int replica);
  static void StartWrites(const std::vector<Send>& sends);  // mutex_ is not held

  BatchCoordinator& coordinator_;
  const Options options_;
  CoordinatorAddress address_;
  mutable std::mutex mutex_;
  std::list<Link*> links_;  // each belongs to its call
  std::set<int> dead_;
  std::vector<int> stalled_;
  std::optional<internal::v1::CoordinatorMessage> last_message_;  // of the job's end
  bool closing_ = false;
  Clock::time_point next_ping_ = Clock::now();
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace tandem::batch
