#include "runtime/server/bearer_tokens.h"

#include <openssl/crypto.h>
#include <spdlog/spdlog.h>

#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"

namespace tandem::server {
namespace {

constexpr std::string_view kScheme = "Bearer ";
constexpr size_t kMaxBytes = size_t{16} << 20;

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec && a.st_dev == b.st_dev && a.st_mode == b.st_mode;
}

// The time that it takes depends on the lengths alone.
bool SameText(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

}  // namespace

bool BearerTokens::Contents::Has(std::string_view token) const {
  bool known = false;
  for (const std::string& one : tokens) known = SameText(one, token) || known;
  return known;
}

absl::StatusOr<std::unique_ptr<BearerTokens>> BearerTokens::FromFile(const std::string& path) {
  std::unique_ptr<BearerTokens> tokens(new BearerTokens(path));
  auto contents = std::make_shared<Contents>();
  // Before it is read: a change in between is found later.
  (void)stat(path.c_str(), &contents->file);
  TANDEM_ASSIGN_OR_RETURN(contents->tokens, tokens->Read());
  tokens->contents_ = std::move(contents);
  tokens->next_check_ = Clock::now() + kCheckInterval;
  return tokens;
}

absl::StatusOr<std::vector<std::string>> BearerTokens::Read() const {
  const auto bad = [this](const std::string& what) {
    return absl::FailedPreconditionError(absl::StrCat("--auth-token-file ", path_, ": ", what));
  };
  // Never waits: a pipe in place of the file would hold up all calls.
  const absl::StatusOr<std::string> text = ReadRegularFile(path_, kMaxBytes);
  if (!text.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("--auth-token-file ", text.status().message()));
  }
  std::istringstream file(*text);
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
  return tokens;
}

std::shared_ptr<const BearerTokens::Contents> BearerTokens::Current() const {
  std::lock_guard lock(mutex_);
  return contents_;
}

void BearerTokens::ReloadIfChanged() {
  std::lock_guard one_at_a_time(reload_mutex_);
  next_check_ = Clock::now() + kCheckInterval;
  const std::shared_ptr<const Contents> old = Current();
  auto contents = std::make_shared<Contents>();
  if (stat(path_.c_str(), &contents->file) != 0) contents->file = {};  // removed
  if (SameFile(contents->file, old->file)) return;
  // A bad file keeps the old tokens, but is not read again until it changes.
  absl::StatusOr<std::vector<std::string>> tokens = Read();
  if (!tokens.ok()) {
    spdlog::warn("{}; the tokens that it held before stay valid",
                 std::string(tokens.status().message()));
  }
  contents->tokens = tokens.ok() ? *std::move(tokens) : old->tokens;
  std::lock_guard lock(mutex_);
  contents_ = std::move(contents);
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
  const bool due = Clock::now() >= next_check_.load();
  if (!due && Current()->Has(token)) return absl::OkStatus();
  ReloadIfChanged();
  if (Current()->Has(token)) return absl::OkStatus();
  return absl::UnauthenticatedError("authorization: the token is not known");
}

}  // namespace tandem::server
