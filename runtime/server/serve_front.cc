#include "runtime/server/serve_front.h"

#include <csignal>
#include <utility>
#include <vector>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "runtime/server/descriptor_limit.h"
#include "runtime/server/listen_address.h"

namespace tandem::server {
namespace {

// For calls that are through with the engine and have only their last bytes to send.
constexpr std::chrono::milliseconds kFlushTime{1'000};

absl::Status Draining() { return absl::UnavailableError("the server is shutting down"); }

absl::Status CutShort() {
  return absl::UnavailableError("the server shut down before the answer was complete");
}

}  // namespace

ServeFront::ServeFront(ServeFrontOptions options, std::unique_ptr<DrainSignals> signals,
                       std::unique_ptr<BearerTokens> tokens)
    : options_(std::move(options)),
      signals_(std::move(signals)),
      metrics_(options_.info),
      health_({v1::InferenceService::service_full_name()}),
      service_(metrics_.requests(), std::move(tokens), options_.preparation_bytes) {}

absl::StatusOr<std::unique_ptr<ServeFront>> ServeFront::Start(
    ServeFrontOptions options, std::unique_ptr<DrainSignals> signals) {
  RaiseDescriptorLimit();
  std::unique_ptr<BearerTokens> tokens;
  if (!options.auth_token_file.empty()) {
    TANDEM_ASSIGN_OR_RETURN(tokens, BearerTokens::FromFile(options.auth_token_file));
  }
  std::unique_ptr<ServeFront> front(
      new ServeFront(std::move(options), std::move(signals), std::move(tokens)));
  TANDEM_ASSIGN_OR_RETURN(
      front->server_,
      GrpcServer::Start(front->options_.server,
                        std::vector<grpc::Service*>{&front->service_, &front->health_}));
  front->port_ = front->server_->port();
  if (!front->options_.metrics_listen.empty()) {
    TANDEM_ASSIGN_OR_RETURN(
        front->metrics_server_,
        MetricsServer::Start(front->options_.metrics_listen,
                             [metrics = &front->metrics_] { return metrics->Text(); }));
  }
  front->stop_thread_ = std::thread(&ServeFront::StopWhenAsked, front.get());
  if (front->signals_ != nullptr) {
    front->signal_thread_ = std::thread(&ServeFront::WatchSignals, front.get());
  }
  return front;
}

ServeFront::~ServeFront() {
  if (stop_thread_.joinable()) {
    RequestDrain();
    EndStreams(CutShort());
    stop_thread_.join();
  }
  if (signal_thread_.joinable()) {
    signals_->Wake();
    signal_thread_.join();
  }
}

std::string ServeFront::address() const { return WithPort(options_.server.listen, port_); }

std::string ServeFront::metrics_address() const {
  return WithPort(options_.metrics_listen, metrics_port());
}

void ServeFront::SetModel(ServedModel model) {
  metrics_.SetModel(model);
  service_.SetModel(std::move(model));
  std::lock_guard lock(mutex_);
  loading_ = false;
  if (!draining_) health_.SetServing(true);
}

void ServeFront::RequestDrain() {
  std::lock_guard lock(mutex_);
  if (draining_) return;
  draining_ = true;
  // Here and not in the thread, so that it is true when this returns.
  health_.SetServing(false);
  service_.StopAccepting(Draining());
  metrics_.SetDraining();
  changed_.notify_all();
}

bool ServeFront::drain_requested() const {
  std::lock_guard lock(mutex_);
  return draining_;
}

bool ServeFront::loading() const {
  std::lock_guard lock(mutex_);
  return loading_;
}

void ServeFront::Fail(const absl::Status& status) {
  TANDEM_CHECK(!status.ok());
  {
    std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = status;
  }
  service_.StopAccepting(status);
  metrics_.SetLost();
  RequestDrain();
  EndStreams(status);
}

absl::Status ServeFront::WaitUntilStopped() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return stopped_; });
  return failure_;
}

void ServeFront::EndStreams(const absl::Status& status) { service_.EndAll(status); }

void ServeFront::WatchSignals() {
  while (const int signal = signals_->Wait()) {
    if (signal == SIGTERM && options_.sigterm_is_loss) {
      Fail(absl::UnavailableError(
          "the ranks are being ended, one was lost; retry when the server is ready again"));
      continue;
    }
    if (options_.dies_while_loading && loading()) DieOfDrainSignal();
    const bool again = drain_requested();
    RequestDrain();
    if (again) EndStreams(CutShort());
  }
}

void ServeFront::StopWhenAsked() {
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return draining_; });
  }
  if (!service_.WaitIdleOrEnded(std::chrono::steady_clock::now() + options_.drain_timeout)) {
    EndStreams(CutShort());
    service_.WaitIdle(std::chrono::steady_clock::now() + kFlushTime);
  }
  health_.Shutdown();
  server_->Shutdown(std::chrono::system_clock::now() + kFlushTime);
  service_.StopPreparing();
  // Last, that the drain can be watched; before the engine goes, which it asks.
  if (metrics_server_ != nullptr) metrics_server_->Stop();
  if (options_.on_stopped) options_.on_stopped();
  std::lock_guard lock(mutex_);
  stopped_ = true;
  changed_.notify_all();
}

}  // namespace tandem::server
