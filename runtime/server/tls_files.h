// Certificates that a server shows and asks for, from PEM files.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"

namespace tandem::server {

struct TlsFiles {
  std::string certificate;  // chain, the server's own first; empty: no TLS
  std::string key;          // private, belongs to the first certificate
  std::string client_ca;    // who signs clients' certificates; empty: clients need none
};

// FAILED_PRECONDITION naming the option and file: unreadable, no PEM, a key of another
// certificate, a certificate that has expired or is not valid yet.
absl::Status CheckTlsFiles(const TlsFiles& files);

// Plain text where the files are empty. The files are read again every few seconds: a renewed
// certificate is shown to new connections without a restart; a broken one is not taken.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

}  // namespace tandem::server
