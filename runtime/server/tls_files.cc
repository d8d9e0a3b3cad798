#include "runtime/server/tls_files.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

constexpr size_t kMaxPemBytes = size_t{16} << 20;
constexpr char kCertificateOption[] = "--tls-cert";
constexpr char kKeyOption[] = "--tls-key";
constexpr char kClientCaOption[] = "--tls-client-ca";

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
using Context = std::unique_ptr<SSL_CTX, Freer<SSL_CTX_free>>;

absl::Status Bad(const char* option, const std::string& path, const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(option, " ", path, ": ", what));
}

// `text` outlives the result.
Bytes BytesOf(const std::string& text) {
  return Bytes(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL's reason for its last failure; its queue of errors is empty afterwards.
std::string Reason() {
  const char* const reason = ERR_reason_error_string(ERR_peek_last_error());
  std::string text = reason == nullptr ? "not accepted by OpenSSL" : reason;
  ERR_clear_error();
  return text;
}

absl::StatusOr<std::string> Read(const char* option, const std::string& path) {
  absl::StatusOr<std::string> text = ReadRegularFile(path, kMaxPemBytes);
  if (!text.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(option, " ", text.status().message()));
  }
  // gRPC takes texts that end at a zero byte.
  if (text->find('\0') != std::string::npos) return Bad(option, path, "found a zero byte");
  return text;
}

// All of the text's certificates: a damaged one in the middle is an error and not the end.
absl::StatusOr<std::vector<Certificate>> Certificates(const char* option, const std::string& path,
                                                      const std::string& text) {
  std::vector<Certificate> found;
  const Bytes bytes = BytesOf(text);
  ERR_clear_error();
  while (X509* next = PEM_read_bio_X509_AUX(bytes.get(), nullptr, nullptr, nullptr)) {
    found.emplace_back(next);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (found.empty() && at_end) {
    ERR_clear_error();
    return Bad(option, path, "found no certificate, expected PEM (BEGIN CERTIFICATE)");
  }
  if (!at_end) {
    return Bad(option, path,
               absl::StrCat("certificate ", found.size() + 1, " cannot be read: ", Reason()));
  }
  ERR_clear_error();
  return found;
}

// A key with a passphrase is refused instead of asked for.
int NoPassphrase(char*, int, int, void*) { return -1; }

absl::Status CheckTimes(const TlsFiles& files, const X509* certificate) {
  if (X509_cmp_current_time(X509_get0_notAfter(certificate)) < 0) {
    return Bad(kCertificateOption, files.certificate, "has expired");
  }
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
    return Bad(kCertificateOption, files.certificate, "is not valid yet");
  }
  return absl::OkStatus();
}

// As gRPC will use them: OpenSSL also refuses what is too weak for its security level.
absl::Status CheckUse(const TlsFiles& files, const std::vector<Certificate>& chain, EVP_PKEY* key) {
  const Context context(SSL_CTX_new(TLS_server_method()));
  if (context == nullptr) return absl::InternalError(absl::StrCat("OpenSSL: ", Reason()));
  if (SSL_CTX_use_certificate(context.get(), chain.front().get()) != 1) {
    return Bad(kCertificateOption, files.certificate, Reason());
  }
  if (SSL_CTX_use_PrivateKey(context.get(), key) != 1) {
    return Bad(kKeyOption, files.key, Reason());
  }
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context.get(), chain[i].get()) != 1) {
      return Bad(kCertificateOption, files.certificate,
                 absl::StrCat("certificate ", i + 1, ": ", Reason()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TlsTexts> ReadTlsFiles(const TlsFiles& files) {
  if (files.certificate.empty() != files.key.empty()) {
    return absl::FailedPreconditionError(
        "--tls-cert and --tls-key: found one of them, expected both or none");
  }
  TlsTexts texts;
  if (files.certificate.empty()) {
    if (files.client_ca.empty()) return texts;
    return absl::FailedPreconditionError("--tls-client-ca: needs --tls-cert and --tls-key");
  }
  TANDEM_ASSIGN_OR_RETURN(texts.certificate, Read(kCertificateOption, files.certificate));
  TANDEM_ASSIGN_OR_RETURN(texts.key, Read(kKeyOption, files.key));
  if (!files.client_ca.empty()) {
    TANDEM_ASSIGN_OR_RETURN(texts.client_ca, Read(kClientCaOption, files.client_ca));
  }
  return texts;
}

absl::Status CheckTlsTexts(const TlsFiles& files, const TlsTexts& texts) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<Certificate> chain,
                          Certificates(kCertificateOption, files.certificate, texts.certificate));
  const Key key(PEM_read_bio_PrivateKey(BytesOf(texts.key).get(), nullptr, NoPassphrase, nullptr));
  if (key == nullptr) {
    ERR_clear_error();
    return Bad(kKeyOption, files.key, "found no key, expected PEM without a passphrase");
  }
  if (X509_check_private_key(chain.front().get(), key.get()) != 1) {
    ERR_clear_error();
    return Bad(kKeyOption, files.key,
               absl::StrCat("belongs to another certificate than ", files.certificate));
  }
  TANDEM_RETURN_IF_ERROR(CheckTimes(files, chain.front().get()));
  TANDEM_RETURN_IF_ERROR(CheckUse(files, chain, key.get()));
  if (files.client_ca.empty()) return absl::OkStatus();
  return Certificates(kClientCaOption, files.client_ca, texts.client_ca).status();
}

}  // namespace tandem::server
