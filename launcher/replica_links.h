// The replicas of a batch job as their coordinator sees them: links over which rows go out and
// answers come in. The rows of a replica that is lost go to the others.
#pragma once

#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "nlohmann/json.hpp"
#include "runtime/server/batch_coordinator.h"
#include "runtime/server/batch_link.h"

namespace tandem::launcher {

class ReplicaLinks {
 public:
  // So many replicas share the rows, of which the coordinator's own has no link. `context`: tokens
  // of the longest row. Starts a thread. What is borrowed outlives it.
  ReplicaLinks(const server::LinkListener& listener, server::BatchCoordinator& coordinator,
               int64_t context, int replicas);
  ~ReplicaLinks();
  ReplicaLinks(const ReplicaLinks&) = delete;
  ReplicaLinks& operator=(const ReplicaLinks&) = delete;

  // Rows for whoever wants some; those of replicas that have gone come back.
  void HandOut();
  // A replica may hold so many rows that are not over. Near the end it gets small, so that none
  // waits with one while the others have nothing to do.
  int64_t FairShare() const;
  // The end of the job: from now on links that end are no loss.
  void Tell(const nlohmann::json& message);
  // Its process has ended.
  void Lose(int replica);
  int lost() const;

 private:
  struct Link {
    std::unique_ptr<server::LineSocket> socket;
    std::thread thread;
    int replica = -1;  // not known yet
    int64_t wanted = 0;
    std::set<uint64_t> rows;  // with it
    bool gone = false;
    bool over = false;  // gone, and seen to be
  };
  void Accept();
  void Listen(Link& link);
  void CountLoss(int replica);  // mutex_ is held

  const server::LinkListener& listener_;
  server::BatchCoordinator& coordinator_;
  const int64_t context_;
  const int replicas_;
  mutable std::mutex mutex_;
  std::list<Link> links_;
  std::set<int> lost_;
  nlohmann::json last_word_;  // null until the end
  std::thread thread_;
};

}  // namespace tandem::launcher
