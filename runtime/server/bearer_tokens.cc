#include "runtime/server/bearer_tokens.h"

#include <openssl/crypto.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

constexpr std::string_view kScheme = "Bearer ";

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

// The time tells the length, nothing else.
bool SameText(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<BearerTokens>> BearerTokens::FromFile(const std::string& path) {
  std::unique_ptr<BearerTokens> tokens(new BearerTokens(path));
  TANDEM_RETURN_IF_ERROR(tokens->Read());
  return tokens;
}

absl::Status BearerTokens::Read() {
  const auto bad = [this](const std::string& what) {
    return absl::FailedPreconditionError(absl::StrCat("--auth-token-file ", path_, ": ", what));
  };
  struct stat now {};
  if (stat(path_.c_str(), &now) != 0) return bad(std::strerror(errno));
  std::ifstream file(path_);
  if (!file || S_ISDIR(now.st_mode)) return bad("cannot be read");
  seen_ = now;  // a bad file is not read again and again
  std::vector<std::string> tokens;
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty() || line[0] == '#') continue;
    if (line.find_first_of(" \t") != std::string::npos) {
      return bad(absl::StrCat("line ", number, ": found blanks, expected one token"));
    }
    tokens.push_back(line);
  }
  if (tokens.empty()) return bad("found no token, expected one a line");
  tokens_ = std::move(tokens);
  return absl::OkStatus();
}

void BearerTokens::ReadIfChanged() {
  struct stat now {};
  if (stat(path_.c_str(), &now) != 0 || SameFile(now, seen_)) return;
  (void)Read();
}

absl::Status BearerTokens::Check(const grpc::CallbackServerContext& context) {
  const auto& metadata = context.client_metadata();
  const auto found = metadata.find("authorization");
  if (found == metadata.end()) return CheckHeader(nullptr);
  const std::string value(found->second.data(), found->second.size());
  return CheckHeader(&value);
}

absl::Status BearerTokens::CheckHeader(const std::string* authorization) {
  if (authorization == nullptr || authorization->rfind(kScheme, 0) != 0) {
    return absl::UnauthenticatedError(
        "authorization: found no token, expected metadata \"authorization: Bearer TOKEN\"");
  }
  const std::string_view token = std::string_view(*authorization).substr(kScheme.size());
  std::lock_guard lock(mutex_);
  ReadIfChanged();
  bool known = false;
  for (const std::string& one : tokens_) known = SameText(one, token) || known;
  if (known) return absl::OkStatus();
  return absl::UnauthenticatedError("authorization: the token is not known");
}

}  // namespace tandem::server
