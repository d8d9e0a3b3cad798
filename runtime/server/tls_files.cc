#include "runtime/server/tls_files.h"

#include <openssl/pem.h>
#include <openssl/x509.h>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

constexpr unsigned kReadAgainSeconds = 5;
constexpr size_t kMaxPemBytes = size_t{16} << 20;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* value) const {
    Free(value);
  }
};
using Bytes = std::unique_ptr<BIO, Freer<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

absl::Status Bad(const char* option, const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(option, " ", path, ": ", what));
}

// `text` outlives the result.
Bytes BytesOf(const std::string& text) {
  return Bytes(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

absl::StatusOr<std::string> Read(const char* option, const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxPemBytes);
  if (text.ok()) return text;
  return absl::FailedPreconditionError(absl::StrCat(option, " ", text.status().message()));
}

absl::StatusOr<Certificate> ReadCertificate(const char* option, const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, Read(option, path));
  Certificate certificate(PEM_read_bio_X509(BytesOf(text).get(), nullptr, nullptr, nullptr));
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
  TANDEM_ASSIGN_OR_RETURN(const std::string key_text, Read("--tls-key", files.key));
  const Key key(PEM_read_bio_PrivateKey(BytesOf(key_text).get(), nullptr, NoPassphrase, nullptr));
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
