// Everything around the engine on rank 0 of a serving world: port, health, drain, end.
//
//   auto signals = DrainSignals::Block();            // before MPI and gRPC start threads
//   auto front = ServeFront::Start(options, std::move(*signals));   // port taken, NOT_SERVING
//   ... load the model, start the engine ...
//   front->SetModel(model);                          // SERVING
//   front->WaitUntilStopped();                       // a signal, RequestDrain or Fail
//   ... stop engine and ranks ...
//
// A signal (or RequestDrain) starts a drain: health becomes NOT_SERVING and new calls get
// UNAVAILABLE at once; open streams go on until they end, or get UNAVAILABLE after `drain_timeout`;
// then the ports are closed and `on_stopped` runs. A second signal or a failure ends the open
// streams at once; clients have one more second to read them.
//
// All methods may be called from any thread; the destructor from one, and never from on_stopped.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/server/drain_signals.h"
#include "runtime/server/generate_service.h"
#include "runtime/server/grpc_server.h"
#include "runtime/server/health_service.h"
#include "runtime/server/metrics_server.h"
#include "runtime/server/serve_metrics.h"
#include "runtime/server/served_model.h"

namespace tandem::server {

struct ServeFrontOptions {
  GrpcServerOptions server;
  // HOST:PORT or [IPv6]:PORT for Prometheus, open from the start to the end; empty: none.
  std::string metrics_listen;
  ServerInfo info;
  // The tokens of the allowed callers; empty: anybody may call. Health and reflection are always
  // open.
  std::string auth_token_file;
  std::chrono::milliseconds drain_timeout{30'000};
  // What requests may hold together until they are tokens; see PreparationPool.
  uint64_t preparation_bytes = kDefaultPreparationBytes;
  // SIGTERM means that the world ends now (mpirun sends it when a rank has died): open streams get
  // UNAVAILABLE while there is time. If false, SIGTERM starts a drain.
  bool sigterm_is_loss = false;
  // A signal before SetModel ends this process by SIGUSR1, as it would have before Start: the
  // launcher then knows that the request to drain was not handled. If false, the drain starts when
  // the model is there.
  bool dies_while_loading = false;
  // Called once, on a thread of the front, when no call is open any more and the port is closed. An
  // engine loop on the main thread can be ended from here. May be empty.
  std::function<void()> on_stopped;
};

class ServeFront {
 public:
  // Raises this process' limit of open files (RaiseDescriptorLimit) and takes the ports; errors as
  // GrpcServer::Start and MetricsServer::Start. `signals` may be null: then only RequestDrain and
  // Fail end it.
  static absl::StatusOr<std::unique_ptr<ServeFront>> Start(ServeFrontOptions options,
                                                           std::unique_ptr<DrainSignals> signals);

  // If it still serves, open streams get UNAVAILABLE at once. Afterwards nothing uses the engine or
  // the tokenizer any more.
  ~ServeFront();

  int port() const { return port_; }
  // As given in the options, with the port that was taken in place of port 0.
  std::string address() const;
  std::string metrics_address() const;
  int metrics_port() const { return metrics_server_ == nullptr ? 0 : metrics_server_->port(); }

  // The model is ready: SERVING, unless a drain has been requested. Once only.
  void SetModel(ServedModel model);

  void RequestDrain();

  // True from the first signal or RequestDrain on: loading may stop.
  bool drain_requested() const;

  // The engine has failed: NOT_SERVING, every open stream ends with `status` (not OK), and the port
  // is closed.
  void Fail(const absl::Status& status);

  // Waits until the port is closed and on_stopped has returned. Returns Fail's status, or OK.
  absl::Status WaitUntilStopped();

 private:
  ServeFront(ServeFrontOptions options, std::unique_ptr<DrainSignals> signals,
             std::unique_ptr<BearerTokens> tokens);

  bool loading() const;
  void WatchSignals();   // a thread
  void StopWhenAsked();  // a thread
  void EndStreams(const absl::Status& status);

  const ServeFrontOptions options_;
  const std::unique_ptr<DrainSignals> signals_;
  ServeMetrics metrics_;
  HealthService health_;
  GenerateService service_;
  std::unique_ptr<GrpcServer> server_;             // after the services: ends before them
  std::unique_ptr<MetricsServer> metrics_server_;  // null: none
  int port_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool loading_ = true;
  bool draining_ = false;
  bool stopped_ = false;
  absl::Status failure_;

  std::thread signal_thread_;
  std::thread stop_thread_;
};

}  // namespace tandem::server
