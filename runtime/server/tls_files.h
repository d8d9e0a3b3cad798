// The certificates that a server presents and requires, from PEM files.
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

// FAILED_PRECONDITION naming the option and file: the file cannot be read or is not PEM, the key
// belongs to another certificate, the certificate has expired or is not valid yet.
absl::Status CheckTlsFiles(const TlsFiles& files);

// Without files: plain text. The files are read again every few seconds: new connections get a
// renewed certificate without a restart; a broken one is ignored.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

}  // namespace tandem::server
