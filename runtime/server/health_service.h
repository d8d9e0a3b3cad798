// grpc.health.v1.Health. gRPC has one built in, but that says SERVING for the whole server from
// the moment the port is open until it is told otherwise; this one begins with NOT_SERVING.
//
// Thread-safe. Outlives the gRPC server that it is registered with.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/support/server_callback.h"

namespace tandem::server {

class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // `services` and "", the server as a whole, are known; all change together.
  explicit HealthService(std::vector<std::string> services);
  ~HealthService() override;

  // Watchers hear of a change at once.
  void SetServing(bool serving);

  // NOT_SERVING for good; open watches end after saying so, new ones too.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  using Response = grpc::health::v1::HealthCheckResponse;

  bool IsKnown(const std::string& service) const;
  void Remove(Watcher* watcher);

  const std::vector<std::string> services_;
  std::mutex mutex_;
  bool serving_ = false;
  bool shut_down_ = false;
  std::unordered_set<Watcher*> watchers_;  // each until its OnDone
};

}  // namespace tandem::server
