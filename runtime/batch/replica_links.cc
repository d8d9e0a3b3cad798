#include "runtime/batch/replica_links.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/batch/progress.h"

namespace tandem::batch {

ReplicaLinks::ReplicaLinks(const LinkListener& listener, BatchCoordinator& coordinator,
                           int64_t context, int replicas, std::chrono::milliseconds stall)
    : listener_(listener),
      coordinator_(coordinator),
      context_(context),
      replicas_(replicas),
      stall_(stall) {
  thread_ = std::thread([this] { Accept(); });
}

ReplicaLinks::~ReplicaLinks() {
  listener_.Shutdown();
  thread_.join();
  for (Link& link : links_) {
    link.socket->Shutdown();
    link.thread.join();
  }
}

void ReplicaLinks::Accept() {
  while (std::unique_ptr<LineSocket> socket = listener_.Accept()) {
    std::lock_guard lock(mutex_);
    Link& link = links_.emplace_back();
    link.socket = std::move(socket);
    link.thread = std::thread([this, &link] { Listen(link); });
  }
}

void ReplicaLinks::Listen(Link& link) {
  const std::optional<nlohmann::json> first = link.socket->ReceiveFirst();
  const std::optional<int> replica =
      first.has_value() ? listener_.ReplicaOf(*first) : std::optional<int>();
  if (!replica.has_value() || !link.socket->Send({{"context", context_}}).ok()) {
    link.socket->Shutdown();
    std::lock_guard lock(mutex_);
    link.gone = true;
    return;
  }
  nlohmann::json last_word;
  {
    std::lock_guard lock(mutex_);
    link.replica = *replica;
    last_word = last_word_;
  }
  if (!last_word.is_null()) (void)link.socket->Send(last_word);  // it comes late
  while (const auto message = link.socket->Receive()) {
    if (message->contains("want")) {
      std::lock_guard lock(mutex_);
      link.wanted += message->value("want", int64_t{0});
    } else if (message->contains("steps")) {
      std::lock_guard lock(mutex_);
      const int64_t steps = message->value("steps", int64_t{0});
      if (steps != link.steps) link.moved = Clock::now();
      link.steps = steps;
      continue;
    } else if (message->contains("t")) {
      coordinator_.AddTokens(message->value("k", uint64_t{0}), message->value("c", 0),
                             (*message)["t"].get<std::vector<int32_t>>());
      continue;
    } else {
      const uint64_t key = message->value("k", uint64_t{0});
      coordinator_.Finish(key, message->value("failed", false), message->value("line", ""));
      std::lock_guard lock(mutex_);
      link.rows.erase(key);
    }
    coordinator_.Wake();
  }
  {
    std::lock_guard lock(mutex_);
    link.gone = true;
  }
  coordinator_.Wake();
}

void ReplicaLinks::HandOut() {
  const int64_t most = FairShare();
  std::list<Link> over;
  std::vector<std::pair<LineSocket*, nlohmann::json>> rows;
  {
    std::lock_guard lock(mutex_);
    for (auto next = links_.begin(); next != links_.end();) {
      const auto link = next++;
      if (link->gone) {
        for (const uint64_t key : link->rows) coordinator_.Return(key);
        if (link->replica >= 0) CountLoss(link->replica);  // else a stranger
        over.splice(over.end(), links_, link);
        continue;
      }
      if (!link->rows.empty() && Clock::now() - link->moved > stall_) {
        TellLine(absl::StrCat("tandem: replica ", link->replica,
                              " has rows and has made no step for ",
                              std::chrono::duration_cast<std::chrono::seconds>(stall_).count(),
                              " s: it has stalled"));
        stalled_.push_back(link->replica);
        link->moved = Clock::now();  // told once
        link->socket->Shutdown();    // it is gone next time, and its rows come back
        continue;
      }
      while (link->wanted > 0 && static_cast<int64_t>(link->rows.size()) < most) {
        std::optional<Assignment> row = coordinator_.Next();
        if (!row.has_value()) break;
        --link->wanted;
        if (link->rows.empty()) link->moved = Clock::now();
        link->rows.insert(row->row.key);
        rows.emplace_back(link->socket.get(), nlohmann::json{{"line", row->row.line},
                                                             {"text", row->row.text},
                                                             {"tokens", row->tokens}});
      }
    }
  }
  // Outside of the lock: a replica that does not read keeps nobody but us waiting. Where it fails
  // the link is seen as gone next time, and the row comes back.
  for (const auto& [socket, row] : rows) (void)socket->Send(row);
  for (Link& link : over) link.thread.join();
}

std::vector<int> ReplicaLinks::TakeStalled() { return std::exchange(stalled_, {}); }

int64_t ReplicaLinks::FairShare() const {
  const int64_t left = coordinator_.counts().left();
  std::lock_guard lock(mutex_);
  const int64_t replicas = std::max<int64_t>(1, replicas_ - static_cast<int64_t>(lost_.size()));
  return (left + replicas - 1) / replicas;
}

void ReplicaLinks::Tell(const nlohmann::json& message) {
  std::lock_guard lock(mutex_);
  last_word_ = message;
  for (const Link& link : links_) {
    if (link.replica >= 0 && !link.gone) (void)link.socket->Send(message);
  }
}

void ReplicaLinks::Lose(int replica) {
  std::lock_guard lock(mutex_);
  for (const Link& link : links_) {
    if (link.replica == replica) link.socket->Shutdown();
  }
  CountLoss(replica);
}

void ReplicaLinks::CountLoss(int replica) {
  if (!last_word_.is_null() || !lost_.insert(replica).second) return;
  TellLine(absl::StrCat("tandem: replica ", replica, " is lost, ",
                        replicas_ - static_cast<int>(lost_.size()), " of ", replicas_,
                        " are left; its rows go to them"));
}

int ReplicaLinks::lost() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(lost_.size());
}

}  // namespace tandem::batch
