// Encryption of a server's connections, with certificates that can be renewed while it runs.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"
#include "runtime/server/tls_files.h"

namespace tandem::server {

// Without files: plain text. Errors as ReadTlsFiles and CheckTlsTexts.
//
// A new connection makes the server look at the files again, at most once in files.read_again.
// Certificates, key and client CA change together, and only to texts that CheckTlsTexts accepts:
// files may be replaced in any order, and while one is missing or damaged, connections get what was
// valid before. What is wrong is logged once for each change of the files, and so is a renewal.
//
// The result must outlive the server that it is given to.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

}  // namespace tandem::server
