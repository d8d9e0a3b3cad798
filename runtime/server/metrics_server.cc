#include "runtime/server/metrics_server.h"

#include <microhttpd.h>
#include <unistd.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "runtime/server/listen_address.h"

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

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& listen, std::function<std::string()> text) {
  // A socket of our own: the library would not say why it cannot have one.
  const absl::StatusOr<ListeningSocket> socket = ListenOn(listen);
  if (!socket.ok()) {
    return absl::Status(socket.status().code(),
                        absl::StrCat("metrics: ", std::string(socket.status().message())));
  }
  std::unique_ptr<MetricsServer> server(new MetricsServer(std::move(text)));
  server->port_ = socket->port;
  server->daemon_ = MHD_start_daemon(
      MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC, 0, nullptr, nullptr, &OnRequest, server.get(),
      MHD_OPTION_LISTEN_SOCKET, socket->fd, MHD_OPTION_CONNECTION_LIMIT, kConnections,
      MHD_OPTION_CONNECTION_TIMEOUT, kSilence, MHD_OPTION_CONNECTION_MEMORY_LIMIT, kConnectionBytes,
      MHD_OPTION_END);
  if (server->daemon_ == nullptr) {
    close(socket->fd);
    return absl::UnavailableError(absl::StrCat("metrics: cannot serve HTTP on ", listen));
  }
  return server;
}

MetricsServer::~MetricsServer() { Stop(); }

void MetricsServer::Stop() {
  if (daemon_ == nullptr) return;
  MHD_stop_daemon(std::exchange(daemon_, nullptr));
}

}  // namespace tandem::server
