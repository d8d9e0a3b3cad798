#include "runtime/rank/agree.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "runtime/rank/build_id.h"

namespace tandem::rank {
namespace {

absl::Status Difference(size_t rank, const std::string& setup, const std::string& of_rank_0) {
  const std::vector<std::string> found = absl::StrSplit(setup, '\n');
  const std::vector<std::string> expected = absl::StrSplit(of_rank_0, '\n');
  std::vector<std::string> differences;
  // Another build may have more lines or fewer.
  for (size_t i = 0; i < std::max(found.size(), expected.size()); ++i) {
    const std::string here = i < found.size() ? found[i] : "nothing";
    const std::string there = i < expected.size() ? expected[i] : "nothing";
    if (here != there) differences.push_back(absl::StrCat(here, ", rank 0 has ", there));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "rank ", rank, " differs from rank 0: it has ", absl::StrJoin(differences, "; "),
      "; give all ranks the same program, model and options, and --isa on unlike hosts"));
}

}  // namespace

std::string SetupOf(const RankOptions& options, const OpenedModel& opened) {
  return absl::StrJoin(
      {absl::StrCat("model ", absl::Hex(opened.checkpoint->Identity())),
       absl::StrCat("build ", BuildId()),
       absl::StrCat("instruction set ", kernels::IsaInUse(options.isa)),
       absl::StrCat("--device ", options.device),
       absl::StrCat(options.deterministic ? "" : "no ", "--deterministic"),
       absl::StrCat("weights ", opened.weight_format), absl::StrCat("head ", opened.head_format),
       absl::StrCat("KV type ", std::string(kernels::KvDTypeName(opened.kv_dtype))),
       absl::StrCat("--shards ", options.shards),
       absl::StrCat("--max-model-len ", options.max_model_len),
       absl::StrCat("--kv-memory ", options.kv_memory),
       absl::StrCat("--max-num-seqs ", options.max_num_seqs),
       absl::StrCat("--max-batched-tokens ", options.max_batched_tokens),
       absl::StrCat("--speculate ", options.speculation.max_drafts),
       absl::StrCat(options.packed_cache.empty() ? "no " : "a ", "packed cache"),
       absl::StrCat("--weights ", options.stream_weights ? "stream" : "resident"),
       absl::StrCat("--collectives ", static_cast<int>(options.collectives)),
       absl::StrCat("--gpu-collectives ", options.gpu_collectives)},
      "\n");
}

absl::Status CompareSetups(std::span<const std::string> setups) {
  for (size_t rank = 1; rank < setups.size(); ++rank) {
    if (setups[rank] != setups[0]) return Difference(rank, setups[rank], setups[0]);
  }
  return absl::OkStatus();
}

absl::Status AgreeOnSetup(parallel::ControlGroup& group, const RankOptions& options,
                          const OpenedModel& opened) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> setups,
                          group.AllGatherBytes(SetupOf(options, opened)));
  return CompareSetups(setups);
}

}  // namespace tandem::rank
