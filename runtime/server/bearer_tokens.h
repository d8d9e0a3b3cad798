// Who may call: clients that send one of the tokens of a file as "authorization: Bearer TOKEN".
#pragma once

#include <sys/stat.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"

namespace tandem::server {

class BearerTokens {
 public:
  // One token a line; empty lines and lines that begin with # are passed over. FAILED_PRECONDITION
  // naming the file: unreadable, without a token, or with one that has blanks in it.
  static absl::StatusOr<std::unique_ptr<BearerTokens>> FromFile(const std::string& path);

  // UNAUTHENTICATED for a call without a known token. A file that has changed is read again; one
  // that can no longer be used leaves the tokens as they were. Any thread.
  absl::Status Check(const grpc::CallbackServerContext& context);
  absl::Status CheckHeader(const std::string* authorization);

 private:
  explicit BearerTokens(std::string path) : path_(std::move(path)) {}
  absl::Status Read();
  void ReadIfChanged();

  const std::string path_;
  std::mutex mutex_;
  std::vector<std::string> tokens_;
  struct stat seen_ {};  // of the file when it was read
};

}  // namespace tandem::server
