#include "runtime/server/tls_files.h"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

constexpr unsigned kReadAgainSeconds = 5;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* value) const {
    Free(value);
  }
};
using File = std::unique_ptr<FILE, Freer<fclose>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

absl::Status Bad(const char* option, const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(option, " ", path, ": ", what));
}

absl::StatusOr<File> Open(const char* option, const std::string& path) {
  File file(std::fopen(path.c_str(), "r"));
  if (file == nullptr) return Bad(option, path, std::strerror(errno));
  return file;
}

absl::StatusOr<Certificate> ReadCertificate(const char* option, const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const File file, Open(option, path));
  Certificate certificate(PEM_read_X509(file.get(), nullptr, nullptr, nullptr));
  if (certificate == nullptr) {
    return Bad(option, path, "found no certificate, expected PEM (BEGIN CERTIFICATE)");
  }
  return certificate;
}

// A key with a passphrase is refused instead of asked for.
int NoPassphrase(char*, int, int, void*) { return -1; }

}  // namespace

absl::Status CheckTlsFiles(const TlsFiles& files) {
  if (files.certificate.empty() != files.key.empty()) {
    return absl::FailedPreconditionError(
        "--tls-cert and --tls-key: found one of them, expected both or none");
  }
  if (files.certificate.empty()) {
    if (files.client_ca.empty()) return absl::OkStatus();
    return absl::FailedPreconditionError("--tls-client-ca: needs --tls-cert and --tls-key");
  }
  TANDEM_ASSIGN_OR_RETURN(const Certificate certificate,
                          ReadCertificate("--tls-cert", files.certificate));
  TANDEM_ASSIGN_OR_RETURN(const File key_file, Open("--tls-key", files.key));
  const Key key(PEM_read_PrivateKey(key_file.get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    return Bad("--tls-key", files.key, "found no key, expected PEM without a passphrase");
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return Bad("--tls-key", files.key,
               absl::StrCat("belongs to another certificate than ", files.certificate));
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return Bad("--tls-cert", files.certificate, "has expired");
  }
  if (X509_cmp_current_time(X509_get0_notBefore(certificate.get())) > 0) {
    return Bad("--tls-cert", files.certificate, "is not valid yet");
  }
  if (files.client_ca.empty()) return absl::OkStatus();
  return ReadCertificate("--tls-client-ca", files.client_ca).status();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files) {
  TANDEM_RETURN_IF_ERROR(CheckTlsFiles(files));
  if (files.certificate.empty()) return grpc::InsecureServerCredentials();
  namespace tls = grpc::experimental;
  auto provider = std::make_shared<tls::FileWatcherCertificateProvider>(
      files.key, files.certificate, files.client_ca, kReadAgainSeconds);
  tls::TlsServerCredentialsOptions options(provider);
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return tls::TlsServerCredentials(options);
}

}  // namespace tandem::server
