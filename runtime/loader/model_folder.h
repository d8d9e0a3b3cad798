// Where a model's files are: a folder, or a name in the hub's local cache.
// Nothing is ever downloaded.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::loader {

// Caches to look in, in order, as huggingface_hub chooses them.
struct HubCache {
  // $HF_HUB_CACHE if set, else $HF_HOME/hub if set, else
  // $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
  static HubCache FromEnvironment();
  std::string path;    // may be empty: no home known
  std::string origin;  // the variable that named it, for messages
};

class ModelFolder {
 public:
  // `model` is the path of a folder, or "org/name" or "org/name@revision" (or
  // "name") in the hub's cache: CACHE/models--org--name/snapshots/COMMIT, where
  // a revision that is not a snapshot itself is looked up in refs/ (default
  // "main"). A folder of that path wins. NotFound lists the places looked at.
  static absl::StatusOr<ModelFolder> Open(std::string_view model);
  static absl::StatusOr<ModelFolder> Open(std::string_view model, const HubCache& cache);

  const std::string& path() const { return path_; }

  // Path of a file in the folder. `name` is a plain file name (checked: a name
  // with a separator is a bug of ours, names from files are checked before).
  std::string PathOf(std::string_view name) const;
  bool Has(std::string_view name) const;  // exists; symlinks are followed

  // The whole of a file, which must be a regular one (symlinks are followed) of
  // at most `max_bytes`; a larger one is refused before memory is allocated.
  // NotFound, or InvalidArgument naming the file, its size and the limit.
  absl::StatusOr<std::string> ReadSmallFile(std::string_view name, size_t max_bytes) const;

 private:
  explicit ModelFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// The last part of a model's path or name, "llama" of "/models/llama/": its name for clients.
std::string NameOf(std::string_view model);

// True if `name` can be a file in a folder: not empty, not "." or "..", without
// '/', '\\' or NUL.
bool IsPlainFileName(std::string_view name);

}  // namespace tandem::loader
