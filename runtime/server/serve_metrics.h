// Everything that `tandem serve` tells Prometheus (docs/monitoring.md has the table), put together
// anew for each scrape from what the engine and the calls count anyway.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "runtime/server/request_metrics.h"
#include "runtime/server/served_model.h"

namespace tandem::server {

// Of the process.
struct ServerInfo {
  std::string version, build;
  // New worlds that the launcher has started in place of failed ones; nullopt: there is none that
  // would.
  std::optional<int64_t> restarts;
};

class ServeMetrics {
 public:
  explicit ServeMetrics(ServerInfo info) : info_(std::move(info)) {}

  RequestMetrics* requests() { return &requests_; }

  // What it points to outlives the last Text. Once only.
  void SetModel(const ServedModel& model);
  void SetDraining();
  // The engine is lost: of ranks that are not seen from here nothing is known any more.
  void SetLost();

  // In Prometheus' text format 0.0.4.
  std::string Text();

 private:
  const ServerInfo info_;
  RequestMetrics requests_;

  std::mutex mutex_;
  std::shared_ptr<const ServedModel> model_;  // null: still loading
  bool draining_ = false;
  bool lost_ = false;
  std::vector<uint64_t> peaks_;  // bytes of each rank
};

}  // namespace tandem::server
