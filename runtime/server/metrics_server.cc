#include "runtime/server/metrics_server.h"

#include <microhttpd.h>
#include <sys/socket.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::server {
namespace {

// Of a connection: request line and headers, and the answer's headers.
constexpr size_t kConnectionBytes = 16 << 10;

MHD_Result Answer(MHD_Connection* connection, unsigned status, const std::string& body,
                  const char* type, const char* allow) {
  MHD_Response* response = MHD_create_response_from_buffer(
      body.size(), const_cast<char*>(body.data()), MHD_RESPMEM_MUST_COPY);
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  if (allow != nullptr) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
  const MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

// Called when a request's headers are complete, then for pieces of its body, then at its end.
// Answering at the first call leaves a body unread.
MHD_Result OnRequest(void* server, MHD_Connection* connection, const char* url, const char* method,
                     const char*, const char*, size_t*, void** seen) {
  constexpr char kPlain[] = "text/plain; charset=utf-8";
  if (std::strcmp(url, "/metrics") != 0) {
    return Answer(connection, MHD_HTTP_NOT_FOUND, "not found: metrics are at /metrics\n", kPlain,
                  nullptr);
  }
  if (std::strcmp(method, MHD_HTTP_METHOD_GET) != 0 &&
      std::strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
    return Answer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "expected GET or HEAD\n", kPlain,
                  "GET, HEAD");
  }
  // The library takes a connection for reuse only if it has received the whole request.
  if (*seen == nullptr) {
    *seen = server;
    return MHD_YES;
  }
  return Answer(connection, MHD_HTTP_OK, static_cast<const MetricsServer*>(server)->Text(),
                "text/plain; version=0.0.4; charset=utf-8", nullptr);
}

void OnConnection(void* server, MHD_Connection* connection, void**,
                  MHD_ConnectionNotificationCode code) {
  auto* const metrics = static_cast<MetricsServer*>(server);
  if (code == MHD_CONNECTION_NOTIFY_STARTED) {
    metrics->Began(connection);
  } else {
    metrics->Ends(connection);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& listen, std::function<std::string()> text, const MetricsLimits& limits) {
  std::unique_ptr<MetricsServer> server(new MetricsServer(std::move(text), limits.spared));
  auto listener =
      ConnectionListener::Open({.listen = listen,
                                .forms = AddressForms::kTcp,
                                .limits = limits.connections,
                                .on_full = [self = server.get()] { self->EndOldConnections(); }});
  if (!listener.ok()) {
    return absl::Status(listener.status().code(),
                        absl::StrCat("metrics: ", std::string(listener.status().message())));
  }
  server->listener_ = *std::move(listener);
  server->daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_USE_NO_LISTEN_SOCKET, 0, nullptr, nullptr,
      &OnRequest, server.get(), MHD_OPTION_NOTIFY_CONNECTION, &OnConnection, server.get(),
      // The listener counts; a connection that it counts no more may still be open for a moment.
      MHD_OPTION_CONNECTION_LIMIT, static_cast<unsigned>(2 * limits.connections.all),
      MHD_OPTION_CONNECTION_TIMEOUT, static_cast<unsigned>(limits.silence.count()),
      MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionBytes, MHD_OPTION_END);
  if (server->daemon_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("metrics: cannot serve HTTP on ", listen));
  }
  server->listener_->Start(
      [daemon = server->daemon_](int fd, const sockaddr_storage& peer, socklen_t size) {
        // The library closes it, also if it refuses it.
        MHD_add_connection(daemon, fd, reinterpret_cast<const sockaddr*>(&peer), size);
      });
  return server;
}

MetricsServer::~MetricsServer() { Stop(); }

void MetricsServer::Stop() {
  if (listener_ != nullptr) listener_->Stop();
  if (daemon_ != nullptr) MHD_stop_daemon(std::exchange(daemon_, nullptr));
}

void MetricsServer::Began(MHD_Connection* connection) {
  const int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
  std::lock_guard lock(mutex_);
  connections_[connection] = {fd, Clock::now()};
}

void MetricsServer::Ends(MHD_Connection* connection) {
  std::lock_guard lock(mutex_);
  connections_.erase(connection);
}

void MetricsServer::EndOldConnections() {
  const Clock::time_point spared = Clock::now() - spared_;
  std::lock_guard lock(mutex_);
  for (const auto& [connection, state] : connections_) {
    // The library sees the end and closes the descriptor, but calls Ends first.
    if (state.begin < spared) shutdown(state.fd, SHUT_RDWR);
  }
}

}  // namespace tandem::server
