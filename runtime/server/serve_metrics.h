// All metrics of `tandem serve` for Prometheus (docs/monitoring.md has the table). Each scrape
// builds them from counters of the engine and the calls.
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
  // How many worlds the launcher has started in place of failed ones; nullopt: no launcher restarts
  // worlds.
  std::optional<int64_t> restarts;
};

class ServeMetrics {
 public:
  explicit ServeMetrics(ServerInfo info) : info_(std::move(info)) {}

  RequestMetrics* requests() { return &requests_; }

  // What the model points to must outlive the last call of Text. Once only.
  void SetModel(const ServedModel& model);
  void SetDraining();
  // The engine has failed: nothing is known any more about ranks on other hosts.
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
