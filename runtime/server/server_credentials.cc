#include "runtime/server/server_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <mutex>
#include <string>
#include <utility>

#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

// The texts in use, and what the files held when they were last read.
class TlsReloader {
 public:
  TlsReloader(TlsFiles files, TlsTexts texts)
      : files_(std::move(files)),
        seen_(std::move(texts)),
        next_read_(Clock::now() + files_.read_again) {}

  // What gRPC asks before each handshake.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* reloader, grpc_ssl_server_certificate_config** config) {
    return static_cast<TlsReloader*>(reloader)->Fetch(config);
  }

 private:
  using Clock = std::chrono::steady_clock;

  grpc_ssl_certificate_config_reload_status Fetch(grpc_ssl_server_certificate_config** config) {
    std::lock_guard lock(mutex_);
    if (!started_) {
      started_ = true;
      *config = ConfigOf(*seen_);
      return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
    }
    if (Clock::now() < next_read_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    next_read_ = Clock::now() + files_.read_again;
    absl::StatusOr<TlsTexts> texts = ReadTlsFiles(files_);
    if (Same(texts, seen_)) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    seen_ = std::move(texts);
    const absl::Status usable = seen_.ok() ? CheckTlsTexts(files_, *seen_) : seen_.status();
    if (!usable.ok()) {
      spdlog::warn("{}; new connections get the certificate that was valid before",
                   std::string(usable.message()));
      return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    }
    spdlog::info("new connections get the certificate that {} holds now", files_.certificate);
    *config = ConfigOf(*seen_);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  static bool Same(const absl::StatusOr<TlsTexts>& a, const absl::StatusOr<TlsTexts>& b) {
    if (a.ok() != b.ok()) return false;
    return a.ok() ? *a == *b : a.status() == b.status();
  }

  static grpc_ssl_server_certificate_config* ConfigOf(const TlsTexts& texts) {
    const grpc_ssl_pem_key_cert_pair pair{texts.key.c_str(), texts.certificate.c_str()};
    // gRPC wants some text, also where clients are not asked for certificates and nobody reads it.
    const std::string& client_ca = texts.client_ca.empty() ? texts.certificate : texts.client_ca;
    return grpc_ssl_server_certificate_config_create(client_ca.c_str(), &pair, 1);
  }

  const TlsFiles files_;
  std::mutex mutex_;
  bool started_ = false;
  absl::StatusOr<TlsTexts> seen_;
  Clock::time_point next_read_;
};

// gRPC's own C++ credentials either cannot change, or change certificate and key one after the
// other; its C interface asks a function of ours for both at once.
class RenewableCredentials : public grpc::ServerCredentials {
 public:
  RenewableCredentials(const TlsFiles& files, TlsTexts texts) : reloader_(files, std::move(texts)) {
    const grpc_ssl_client_certificate_request_type clients =
        files.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            clients, &TlsReloader::Fetch, &reloader_));
  }
  ~RenewableCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {
    TANDEM_CHECK(false);  // BearerTokens does this
  }

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  TlsReloader reloader_;
  grpc_server_credentials* credentials_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  TANDEM_ASSIGN_OR_RETURN(TlsTexts texts, ReadTlsFiles(files));
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  TANDEM_RETURN_IF_ERROR(CheckTlsTexts(files, texts));
  return std::make_shared<RenewableCredentials>(files, std::move(texts));
}

}  // namespace tandem::server
