// The certificates that a server presents and requires, from PEM files.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/statusor.h"

namespace tandem::server {

struct TlsFiles {
  std::string certificate;  // chain, the server's own first; empty: no TLS
  std::string key;          // private, belongs to the first certificate
  std::string client_ca;    // who signs clients' certificates; empty: clients need none
  // A new connection makes a server look at the files again, at most once in this time.
  std::chrono::milliseconds read_again{1'000};
};

// The texts of the files.
struct TlsTexts {
  std::string certificate;
  std::string key;
  std::string client_ca;
  bool operator==(const TlsTexts&) const = default;
};

// Reads the files; only regular ones, so nothing waits for a pipe. Without files: no text.
// FAILED_PRECONDITION naming option and file: an option is missing, or a file cannot be read.
absl::StatusOr<TlsTexts> ReadTlsFiles(const TlsFiles& files);

// What a server can use: PEM throughout; the key belongs to the first certificate, which is valid
// now; OpenSSL accepts all of it. FAILED_PRECONDITION naming option and file otherwise.
absl::Status CheckTlsTexts(const TlsFiles& files, const TlsTexts& texts);

}  // namespace tandem::server
