// Who may call: clients that send one of the tokens of a file as "authorization: Bearer TOKEN".
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"

namespace tandem::server {

class BearerTokens {
 public:
  // One token a line; empty lines and lines that begin with # are skipped. FAILED_PRECONDITION
  // naming the file: it is no regular file, cannot be read, has no token, or a token that contains
  // blanks.
  static absl::StatusOr<std::unique_ptr<BearerTokens>> FromFile(const std::string& path);

  // UNAUTHENTICATED for a call without a known token. A changed file is read again: at once for a
  // token that is not known yet, within kCheckInterval for one that is known no longer. If the new
  // file cannot be used, the old tokens stay valid, and the log says why once. Any thread.
  absl::Status Check(const grpc::CallbackServerContext& context);
  absl::Status CheckHeader(const std::string* authorization);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kCheckInterval{1};

  // The file as it was read once; never changes.
  struct Contents {
    std::vector<std::string> tokens;
    struct stat file {};  // of the file when it was read
    bool Has(std::string_view token) const;
  };

  explicit BearerTokens(std::string path) : path_(std::move(path)) {}
  // The tokens of the file, or why it cannot be used.
  absl::StatusOr<std::vector<std::string>> Read() const;
  std::shared_ptr<const Contents> Current() const;
  void ReloadIfChanged();

  const std::string path_;
  std::atomic<Clock::time_point> next_check_;
  std::mutex reload_mutex_;   // one thread reads the file at a time; calls do not wait for it
  mutable std::mutex mutex_;  // of the pointer alone
  std::shared_ptr<const Contents> contents_;
};

}  // namespace tandem::server
