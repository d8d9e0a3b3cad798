#include "runtime/server/health_service.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace tandem::server {

// Sends the newest status; those that a slow watcher missed in between are skipped. The service
// calls in with its own mutex held, so the order is service, then watcher, never the reverse.
class HealthService::Watcher final : public grpc::ServerWriteReactor<Response> {
 public:
  Watcher(HealthService* service, bool known) : service_(service), known_(known) {}

  bool known() const { return known_; }

  void Update(Response::ServingStatus status) {
    std::lock_guard lock(mutex_);
    next_ = status;
    AdvanceLocked();
  }

  void End() {
    std::lock_guard lock(mutex_);
    ending_ = true;
    AdvanceLocked();
  }

 private:
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) {
      next_.reset();
      ending_ = true;
    }
    AdvanceLocked();
  }

  void OnCancel() override {
    std::lock_guard lock(mutex_);
    next_.reset();
    ending_ = true;
    AdvanceLocked();
  }

  void OnDone() override {
    service_->Remove(this);
    delete this;
  }

  void AdvanceLocked() {
    if (writing_ || finished_) return;
    if (next_.has_value() && next_ != sent_) {
      sent_ = next_;
      response_.set_status(*next_);
      writing_ = true;
      StartWrite(&response_);
    } else if (ending_) {
      finished_ = true;
      Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is shutting down"));
    }
  }

  HealthService* const service_;
  const bool known_;
  std::mutex mutex_;
  std::optional<Response::ServingStatus> next_;
  std::optional<Response::ServingStatus> sent_;
  Response response_;
  bool writing_ = false;
  bool ending_ = false;
  bool finished_ = false;
};

HealthService::HealthService(std::vector<std::string> services) : services_(std::move(services)) {}

HealthService::~HealthService() { TANDEM_CHECK(watchers_.empty()); }

void HealthService::SetServing(bool serving) {
  std::lock_guard lock(mutex_);
  if (shut_down_) return;
  serving_ = serving;
  for (Watcher* watcher : watchers_) {
    if (watcher->known()) watcher->Update(serving ? Response::SERVING : Response::NOT_SERVING);
  }
}

void HealthService::Shutdown() {
  std::lock_guard lock(mutex_);
  serving_ = false;
  shut_down_ = true;
  for (Watcher* watcher : watchers_) {
    if (watcher->known()) watcher->Update(Response::NOT_SERVING);
    watcher->End();
  }
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const grpc::health::v1::HealthCheckRequest* request,
                                               Response* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (!IsKnown(request->service())) {
    reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND,
                                 absl::StrCat("no service \"", request->service(), "\"")));
    return reactor;
  }
  {
    std::lock_guard lock(mutex_);
    response->set_status(serving_ ? Response::SERVING : Response::NOT_SERVING);
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext* /*context*/, const grpc::health::v1::HealthCheckRequest* request) {
  const bool known = IsKnown(request->service());
  auto* watcher = new Watcher(this, known);  // deletes itself in OnDone
  std::lock_guard lock(mutex_);
  watchers_.insert(watcher);
  watcher->Update(!known     ? Response::SERVICE_UNKNOWN
                  : serving_ ? Response::SERVING
                             : Response::NOT_SERVING);
  if (shut_down_) watcher->End();
  return watcher;
}

bool HealthService::IsKnown(const std::string& service) const {
  return service.empty() ||
         std::find(services_.begin(), services_.end(), service) != services_.end();
}

void HealthService::Remove(Watcher* watcher) {
  std::lock_guard lock(mutex_);
  watchers_.erase(watcher);
}

}  // namespace tandem::server
