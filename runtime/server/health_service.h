// grpc.health.v1.Health. gRPC's own implementation reports SERVING for the whole server as soon as
// the port is open; this one begins with NOT_SERVING.
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

  // Open watches get a change at once.
  void SetServing(bool serving);

  // NOT_SERVING from now on. Open and new watches report it and end.
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
