#include "runtime/rank/load.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "parallel/all_gather.h"
#include "parallel/shm_host.h"
#include "runtime/rank/packed_cache.h"

namespace tandem::rank {
namespace {

// A larger difference between planned and measured bytes, as a part of the plan, is a warning.
constexpr double kPlanTolerance = 0.05;

void LogPlanDifference(const char* purpose, uint64_t planned, uint64_t measured) {
  const uint64_t difference = planned > measured ? planned - measured : measured - planned;
  const bool large =
      static_cast<double>(difference) > kPlanTolerance * static_cast<double>(planned);
  spdlog::log(large ? spdlog::level::warn : spdlog::level::info,
              "{}: planned {} bytes, measured {}", purpose, planned, measured);
}

// Collective. Memory for the embedding that the ranks of this host share, if they can and layers do
// not stay in a file. Each rank makes the pages of its own part.
absl::StatusOr<parallel::ShmSegment> ShareEmbedding(parallel::ControlGroup& group,
                                                    const StartResults& start,
                                                    model::DecoderOptions* decoder) {
  const parallel::ShmHost* host = start.shared_memory;
  const uint64_t bytes = model::EmbeddingBytes(start.opened.config, *start.opened.checkpoint);
  // The same on all ranks.
  if (host == nullptr || decoder->layers == model::LayersIn::kFile || bytes == 0) {
    return parallel::ShmSegment();
  }
  std::vector<int> members;
  for (int local = 0; local < host->local_size(); ++local) {
    members.push_back(host->world_rank(local));
  }
  TANDEM_ASSIGN_OR_RETURN(parallel::ShmSegment segment,
                          parallel::ShareSegment(group, members, bytes, 0));
  model::EmbeddingMemory& memory = decoder->embedding;
  const parallel::Range part = model::EmbeddingPart(bytes, memory.part, memory.parts);
  absl::Status made;
  if (part.size() > 0) made = segment.Allocate(part.begin, part.size());
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(group, made));
  segment.Seal();
  memory.shared = segment.data();
  return segment;
}

// The checkpoint once more, after a decoder has taken it.
absl::Status Reopen(uint64_t identity, OpenedModel* opened) {
  TANDEM_ASSIGN_OR_RETURN(opened->checkpoint, loader::Checkpoint::Open(opened->folder));
  if (opened->checkpoint->Identity() == identity) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(opened->folder.path(),
                   ": found another model than at the start, expected the same; start "
                   "again when it is complete"));
}

// How a try at loading reads packed weights. Each is tried after the one before it has found the
// file damaged.
enum class PackedTry { kAsItIs, kMadeAgain, kWithout };

// Collective. Opens the packed file into `loaded`, for `decoder`.
absl::Status OpenPacked(parallel::ControlGroup& group, const StartResults& start, PackedTry how,
                        LoadedModel* loaded, model::DecoderOptions* decoder) {
  decoder->packed = nullptr;
  if (start.options.packed_cache.empty() || how == PackedTry::kWithout) return absl::OkStatus();
  OpenedModel& opened = start.opened;
  TANDEM_ASSIGN_OR_RETURN(loaded->packed,
                          OpenPackedWeights({.directory = start.options.packed_cache,
                                             .model = opened.folder,
                                             .config = opened.config,
                                             .checkpoint = *opened.checkpoint,
                                             .weights = opened.weights,
                                             .required = start.options.stream_weights,
                                             .remake = how == PackedTry::kMadeAgain},
                                            start.placed.places, *opened.backend, group));
  decoder->packed = loaded->packed.get();
  absl::Status reserved;
  if (decoder->layers == model::LayersIn::kFile) reserved = loaded->packed->ReserveImage();
  return parallel::AgreeOnStatus(group, reserved);
}

// Collective. Whether a rank has found its packed file damaged, which the first that has logs.
absl::StatusOr<bool> FoundDamage(parallel::ControlGroup& group, const LoadedModel& loaded,
                                 const absl::Status& read) {
  const bool mine = loaded.packed != nullptr && loaded.packed->damaged();
  TANDEM_ASSIGN_OR_RETURN(const std::vector<bool> all, parallel::AllGather(group, mine));
  const auto first = std::ranges::find(all, true);
  if (first - all.begin() == group.rank()) {
    spdlog::warn("--packed-cache: {}; the file is made again", std::string(read.message()));
  }
  return first != all.end();
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(parallel::ControlGroup& group, const StartResults& start,
                                      const StepCollectives& collectives,
                                      model::DecoderOptions decoder) {
  OpenedModel& opened = start.opened;
  LoadedModel loaded;
  TANDEM_ASSIGN_OR_RETURN(loaded.embedding, ShareEmbedding(group, start, &decoder));
  TANDEM_ASSIGN_OR_RETURN(
      loaded.gpu_steps,
      MakeGpuCollectives(collectives, *opened.backend, start.shards, decoder, start.options));
  parallel::Communicator& steps =
      loaded.gpu_steps != nullptr ? *loaded.gpu_steps : *collectives.host.communicator;
  const uint64_t identity = opened.checkpoint->Identity();
  for (const PackedTry how : {PackedTry::kAsItIs, PackedTry::kMadeAgain, PackedTry::kWithout}) {
    if (how != PackedTry::kAsItIs) {
      TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(group, Reopen(identity, &opened)));
    }
    TANDEM_RETURN_IF_ERROR(OpenPacked(group, start, how, &loaded, &decoder));
    auto read = model::Decoder::Load(opened.config, std::move(opened.checkpoint), start.shards,
                                     *opened.backend, steps, decoder);
    TANDEM_ASSIGN_OR_RETURN(const bool damage, FoundDamage(group, loaded, read.status()));
    const bool last_try = how == PackedTry::kWithout || (how == PackedTry::kMadeAgain &&
                                                         decoder.layers == model::LayersIn::kFile);
    if (damage && !last_try) {
      read = absl::UnknownError("");  // before the file that its decoder streams from
      loaded.packed.reset();
      continue;
    }
    TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(group, read.status()));
    loaded.decoder = *std::move(read);
    break;
  }
  // What it holds has been copied.
  if (decoder.layers != model::LayersIn::kFile) loaded.packed.reset();
  TANDEM_RETURN_IF_ERROR(loaded.decoder->RecordSteps());
  return loaded;
}

void LogPlanDifferences(const plan::MemoryPlan& plan, const model::Decoder& decoder) {
  const model::DecoderBytes held = decoder.bytes();
  LogPlanDifference("weights", plan.weights, held.weights);
  LogPlanDifference("embedding", plan.embedding, held.embedding);
  LogPlanDifference("KV cache", plan.kv, held.kv);
  LogPlanDifference("workspace", plan.workspace, held.workspace);
}

}  // namespace tandem::rank
