#include "runtime/loader/model_folder.h"

#include <sys/stat.h>

#include <cctype>
#include <cstdlib>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/check.h"
#include "kernels/base/json_field.h"
#include "kernels/base/read_file.h"
#include "kernels/base/status_macros.h"

namespace tandem::loader {
namespace {

bool IsFolder(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A part of a hub name, which becomes part of a path.
bool IsHubWord(std::string_view word) {
  return IsPlainFileName(word) && word.find("--") == word.npos;
}

// A branch, tag or commit; branches may hold slashes, which refs/ keeps.
bool IsRevision(std::string_view revision) {
  while (true) {
    const size_t slash = revision.find('/');
    if (!IsPlainFileName(revision.substr(0, slash))) return false;
    if (slash == revision.npos) return true;
    revision.remove_prefix(slash + 1);
  }
}

}  // namespace

bool IsPlainFileName(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == name.npos;
}

HubCache HubCache::FromEnvironment() {
  if (const std::string cache = Variable("HF_HUB_CACHE"); !cache.empty()) {
    return {cache, "HF_HUB_CACHE"};
  }
  if (const std::string home = Variable("HF_HOME"); !home.empty()) {
    return {home + "/hub", "HF_HOME"};
  }
  if (const std::string xdg = Variable("XDG_CACHE_HOME"); !xdg.empty()) {
    return {xdg + "/huggingface/hub", "XDG_CACHE_HOME"};
  }
  if (const std::string home = Variable("HOME"); !home.empty()) {
    return {home + "/.cache/huggingface/hub", "HOME"};
  }
  return {};
}

absl::StatusOr<ModelFolder> ModelFolder::Open(std::string_view model) {
  return Open(model, HubCache::FromEnvironment());
}

absl::StatusOr<ModelFolder> ModelFolder::Open(std::string_view model, const HubCache& cache) {
  const std::string path(model);
  if (model.empty() || model.find('\0') != model.npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model: found ", json::Quoted(model), ", expected a folder or a name such as org/name"));
  }
  if (IsFolder(path)) return ModelFolder(path);
  struct stat status;
  if (stat(path.c_str(), &status) == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model: found the file ", path, ", expected the folder that holds it; name that"));
  }

  std::vector<std::string> looked = {absl::StrCat("folder ", path)};
  const size_t at = model.find('@');
  const std::string_view repository = model.substr(0, at);
  const std::string_view revision = at == model.npos ? "main" : model.substr(at + 1);
  const size_t slash = repository.find('/');
  const bool is_name = IsHubWord(repository.substr(0, slash)) &&
                       (slash == repository.npos || IsHubWord(repository.substr(slash + 1))) &&
                       IsRevision(revision);
  if (is_name && !cache.path.empty()) {
    std::string folder = absl::StrCat(cache.path, "/models--", std::string(repository));
    if (slash != repository.npos) {
      folder.replace(folder.size() - (repository.size() - slash), 1, "--");
    }
    std::vector<std::string> commits = {std::string(revision)};
    if (const auto ref =
            ReadRegularFile(absl::StrCat(folder, "/refs/", std::string(revision)), 256);
        ref.ok()) {
      std::string commit = *ref;
      while (!commit.empty() && std::isspace(static_cast<unsigned char>(commit.back()))) {
        commit.pop_back();
      }
      if (IsPlainFileName(commit)) commits.push_back(commit);
    } else {
      looked.push_back(absl::StrCat(folder, "/refs/", std::string(revision)));
    }
    for (const std::string& commit : commits) {
      const std::string snapshot = absl::StrCat(folder, "/snapshots/", commit);
      if (IsFolder(snapshot)) return ModelFolder(snapshot);
      looked.push_back(snapshot);
    }
  }
  return absl::NotFoundError(absl::StrCat(
      "model: found no ", json::Quoted(model), " (looked at ", absl::StrJoin(looked, ", "),
      is_name && !cache.path.empty() ? absl::StrCat("; the cache is from $", cache.origin) : "",
      "), expected a folder or a downloaded name; download it or give its path"));
}

std::string NameOf(std::string_view model) {
  const size_t end = model.find_last_not_of('/');
  if (end == model.npos) return std::string(model);
  model = model.substr(0, end + 1);
  return std::string(model.substr(model.rfind('/') + 1));
}

std::string ModelFolder::PathOf(std::string_view name) const {
  TANDEM_CHECK(IsPlainFileName(name));
  return absl::StrCat(path_, path_.back() == '/' ? "" : "/", std::string(name));
}

bool ModelFolder::Has(std::string_view name) const {
  struct stat status;
  return stat(PathOf(name).c_str(), &status) == 0;
}

absl::StatusOr<std::string> ModelFolder::ReadSmallFile(std::string_view name,
                                                       size_t max_bytes) const {
  return ReadRegularFile(PathOf(name), max_bytes);
}

}  // namespace tandem::loader
