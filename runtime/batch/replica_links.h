// The replicas of a batch job as their coordinator sees them: links over which rows go out and
// answers come in. The rows of a replica that is lost go to the others.
#pragma once

#include <chrono>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/batch/coordinator.h"
#include "runtime/batch/link.h"

namespace tandem::batch {

class ReplicaLinks {
 public:
  // So many replicas share the rows, of which the coordinator's own has no link. `context`: tokens
  // of the longest row. A replica that has rows and makes no step for `stall` is lost. Starts a
  // thread. What is borrowed outlives it.
  ReplicaLinks(const LinkListener& listener, BatchCoordinator& coordinator, int64_t context,
               int replicas, std::chrono::milliseconds stall);
  ~ReplicaLinks();
  ReplicaLinks(const ReplicaLinks&) = delete;
  ReplicaLinks& operator=(const ReplicaLinks&) = delete;

  // Rows for whoever wants some; those of replicas that have gone or stalled come back. All calls
  // are of one thread.
  void HandOut();
  // Replicas that have stalled, each once: their processes are still there.
  std::vector<int> TakeStalled();
  // A replica may hold so many rows that are not over. Near the end it gets small, so that none
  // waits with one while the others have nothing to do.
  int64_t FairShare() const;
  // The end of the job: from now on links that end are no loss.
  void Tell(const nlohmann::json& message);
  // Its process has ended.
  void Lose(int replica);
  int lost() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Link {
    std::unique_ptr<LineSocket> socket;
    std::thread thread;
    int replica = -1;  // not known yet
    int64_t wanted = 0;
    std::set<uint64_t> rows;  // with it
    int64_t steps = -1;       // as it last said
    Clock::time_point moved;  // when that, or that it has rows, was last new
    bool gone = false;        // its thread is at its end
  };
  void Accept();
  void Listen(Link& link);
  void CountLoss(int replica);  // mutex_ is held

  const LinkListener& listener_;
  BatchCoordinator& coordinator_;
  const int64_t context_;
  const int replicas_;
  const std::chrono::milliseconds stall_;
  mutable std::mutex mutex_;
  std::list<Link> links_;
  std::set<int> lost_;
  std::vector<int> stalled_;  // HandOut's and TakeStalled's
  nlohmann::json last_word_;  // null until the end
  std::thread thread_;
};

}  // namespace tandem::batch
