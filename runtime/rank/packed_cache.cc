#include "runtime/rank/packed_cache.h"

#include <spdlog/spdlog.h>
#include <xxhash.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "runtime/model/packed_weights.h"

namespace tandem::rank {
namespace {

using PackedFilePtr = std::unique_ptr<loader::PackedFile>;

// INVALID_ARGUMENT where the file is not the one that Make would write.
absl::StatusOr<PackedFilePtr> Open(const PackedCacheArgs& args, const std::string& path,
                                   const std::string& key, const kernels::Backend& backend) {
  TANDEM_ASSIGN_OR_RETURN(PackedFilePtr file, loader::PackedFile::Open(path, key));
  TANDEM_RETURN_IF_ERROR(
      model::CheckPackedWeights(args.config, args.checkpoint, args.weights, backend, *file));
  return file;
}

absl::Status Make(const PackedCacheArgs& args, const std::string& path, const std::string& key,
                  kernels::Backend& backend) {
  std::error_code error;
  std::filesystem::create_directories(args.directory, error);
  if (error) {
    return absl::PermissionDeniedError(
        absl::StrCat(args.directory, ": cannot create: ", error.message()));
  }
  spdlog::info("packing weights into {}", path);
  const auto start = std::chrono::steady_clock::now();
  TANDEM_ASSIGN_OR_RETURN(const auto checkpoint, loader::Checkpoint::Open(args.model));
  TANDEM_ASSIGN_OR_RETURN(loader::PackedFileWriter writer,
                          loader::PackedFileWriter::Create(path, key));
  TANDEM_RETURN_IF_ERROR(
      model::WritePackedWeights(args.config, *checkpoint, args.weights, backend, writer));
  TANDEM_RETURN_IF_ERROR(writer.Finish());
  spdlog::info("packed weights in {:.1f} s",
               std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<loader::PackedFile>> OpenPackedWeights(
    const PackedCacheArgs& args, const std::vector<RankPlace>& places, kernels::Backend& backend,
    parallel::ControlGroup& group) {
  if (backend.packed_layout().empty()) {
    return absl::UnimplementedError(
        "--packed-cache: this instruction set's kernels keep no packed weights; leave it out or "
        "give another --isa");
  }
  const auto key_or = model::PackedKey(args.checkpoint, args.weights, backend);
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(group, key_or.status()));
  const std::string& key = *key_or;
  const std::string path =
      absl::StrCat(args.directory, "/",
                   absl::Hex(XXH3_64bits(key.data(), key.size()), absl::kZeroPad16), ".packed");
  absl::StatusOr<PackedFilePtr> file =
      absl::DataLossError(absl::StrCat(path, ": damaged, and not made again"));
  if (!args.remake) file = Open(args, path, key, backend);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<bool> found, parallel::AllGather(group, file.ok()));
  // All ranks take the same branch, since the exchanges below are collective.
  if (std::ranges::find(found, false) != found.end()) {
    const int rank = group.rank();
    bool first_of_host = true;
    for (int r = 0; r < rank; ++r) {
      first_of_host = first_of_host && places[r].host != places[rank].host;
    }
    absl::Status made;
    if (first_of_host && !file.ok()) {
      if (!absl::IsNotFound(file.status()) && !args.remake) {
        spdlog::warn("--packed-cache: {}; the file is made again",
                     std::string(file.status().message()));
      }
      made = Make(args, path, key, backend);
    }
    // Waits for the writers, as long as a start may take.
    TANDEM_ASSIGN_OR_RETURN(const std::vector<bool> all_made,
                            parallel::AllGather(group, made.ok()));
    // Where the file could not be made again, the damaged one is still there.
    const bool usable = !args.remake || std::ranges::find(all_made, false) == all_made.end();
    if (!file.ok() && usable) file = Open(args, path, key, backend);
    if (args.required) {
      const absl::Status& why = made.ok() ? file.status() : made;
      TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(
          group, file.ok() ? absl::OkStatus()
                           : absl::Status(why.code(), absl::StrCat("--weights stream: ",
                                                                   std::string(why.message())))));
    }
    if (!file.ok() && first_of_host) {
      spdlog::warn("--packed-cache: {}; weights are packed from the checkpoint",
                   std::string((made.ok() ? file.status() : made).message()));
    }
  }
  return file.ok() ? *std::move(file) : nullptr;
}

}  // namespace tandem::rank
