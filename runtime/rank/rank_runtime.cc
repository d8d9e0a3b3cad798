#include "runtime/rank/rank_runtime.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_communicator.h"
#include "parallel/timed_communicator.h"
#include "runtime/loader/hf_config.h"
#include "runtime/model/model_tensors.h"
#include "runtime/plan/planner.h"
#include "runtime/rank/build_id.h"
#include "runtime/rank/packed_cache.h"

namespace tandem::rank {
namespace {

// Share of the free memory that a KV cache of its own accord takes.
constexpr double kKvShare = 0.5;
// The same of a GPU, which nobody else uses.
constexpr double kGpuKvShare = 0.9;

// Planned and measured bytes may be so far apart, as a part of the plan.
constexpr double kPlanTolerance = 0.05;

// Weights that --shards names; ones for "even" and, until it is known, for "auto".
absl::StatusOr<std::vector<int64_t>> ShardWeights(const std::string& shards, int tp) {
  std::vector<int64_t> weights(tp, 1);
  if (shards == "even" || shards == "auto") return weights;
  const std::vector<std::string> parts = absl::StrSplit(shards, ',');
  bool good = parts.size() == weights.size();
  for (size_t r = 0; good && r < parts.size(); ++r) {
    good = absl::SimpleAtoi(parts[r], &weights[r]) && weights[r] >= 1 && weights[r] <= 1 << 30;
  }
  if (good) return weights;
  return absl::InvalidArgumentError(absl::StrCat("--shards: found '", shards,
                                                 "', expected even, auto or ", tp,
                                                 " whole numbers, one for each rank: 3,3,2"));
}

std::string Mebibytes(uint64_t bytes) { return absl::StrCat(bytes >> 20, " MiB"); }

// A rank that takes other than it planned may meet the end of memory where the plan saw none.
void HoldAgainstPlan(const char* purpose, uint64_t planned, uint64_t measured) {
  const uint64_t apart = planned > measured ? planned - measured : measured - planned;
  const bool far = static_cast<double>(apart) > kPlanTolerance * static_cast<double>(planned);
  spdlog::log(far ? spdlog::level::warn : spdlog::level::info, "{}: planned {} bytes, measured {}",
              purpose, planned, measured);
}

// Ranks whose lists of what they mean, a line each, are not the same.
absl::Status Differs(size_t rank, const std::string& theirs, const std::string& first) {
  const std::vector<std::string> here = absl::StrSplit(first, '\n');
  const std::vector<std::string> there = absl::StrSplit(theirs, '\n');
  std::vector<std::string> differences;
  // Another build may know of more.
  for (size_t i = 0; i < std::max(here.size(), there.size()); ++i) {
    const std::string mine = i < here.size() ? here[i] : "nothing";
    const std::string other = i < there.size() ? there[i] : "nothing";
    if (mine != other) differences.push_back(absl::StrCat(other, ", rank 0 has ", mine));
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "rank ", rank, " differs from rank 0: it has ", absl::StrJoin(differences, "; "),
      "; give all ranks the same program, model and options, and --isa on unlike hosts"));
}

template <typename T>
std::string Pack(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T Unpack(const std::string& bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  return value;
}

}  // namespace

absl::StatusOr<kernels::KvDType> KvDType(const std::string& name, kernels::DType weights) {
  if (name == "auto") return kernels::KvDTypeOf(weights);
  if (name == "fp32") return kernels::KvDType::kF32;
  if (name == "fp16") return kernels::KvDType::kF16;
  if (name == "bf16") return kernels::KvDType::kBF16;
  if (name == "int8") return kernels::KvDType::kI8;
  return absl::InvalidArgumentError(
      absl::StrCat("--kv-dtype: found '", name, "', expected auto, fp32, fp16, bf16 or int8"));
}

absl::StatusOr<std::unique_ptr<RankRuntime>> RankRuntime::Load(parallel::MpiWorld* world,
                                                               const RankOptions& options) {
  std::unique_ptr<RankRuntime> runtime(new RankRuntime);
  if (world == nullptr) {
    runtime->start_ = std::make_unique<parallel::SelfGroup>();
  } else {
    runtime->start_ = world->MakeControlGroup();
    runtime->local_size_ = world->local_size();
  }
  runtime->host_ranks_ = runtime->local_size_ * options.memory.count;
  runtime->timer_ = options.timer;
  runtime->communicator_ = runtime->start_.get();
  parallel::ControlGroup& all = *runtime->start_;
  TANDEM_RETURN_IF_ERROR(runtime->Bind(world, options));
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(all, runtime->Prepare(options)));
  TANDEM_RETURN_IF_ERROR(runtime->CheckAgreement(options));
  TANDEM_RETURN_IF_ERROR(runtime->CutShards(options));
  TANDEM_RETURN_IF_ERROR(runtime->MakeCollectives(world, options));
  TANDEM_RETURN_IF_ERROR(runtime->SizeCache(options));
  TANDEM_RETURN_IF_ERROR(runtime->CheckMemory());
  if (!options.packed_cache.empty()) {
    TANDEM_ASSIGN_OR_RETURN(runtime->packed_,
                            OpenPackedWeights({.directory = options.packed_cache,
                                               .model = *runtime->folder_,
                                               .config = runtime->config_,
                                               .checkpoint = *runtime->checkpoint_,
                                               .weights = runtime->decoder_options_.weights,
                                               .required = options.stream_weights},
                                              runtime->places_, *runtime->backend_, all));
    runtime->decoder_options_.packed = runtime->packed_.get();
  }
  TANDEM_RETURN_IF_ERROR(runtime->MakeDeviceCollectives(options));
  TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(all, runtime->LoadDecoder(options)));
  TANDEM_RETURN_IF_ERROR(runtime->decoder_->RecordSteps());
  TANDEM_RETURN_IF_ERROR(runtime->GatherRanks());
  const model::DecoderBytes held = runtime->decoder_->bytes();
  HoldAgainstPlan("weights", runtime->plan_.weights, held.weights);
  HoldAgainstPlan("KV cache", runtime->plan_.kv, held.kv);
  HoldAgainstPlan("workspace", runtime->plan_.workspace, held.workspace);
  if (all.rank() == 0) {
    // Told once nothing can fail any more: an error is one line alone.
    for (size_t r = 0; r < runtime->bindings_.size(); ++r) {
      spdlog::info("rank {}: {}", r, runtime->bindings_[r]);
    }
    if (all.size() > 1) spdlog::info("collectives: {}", runtime->collectives_.description);
    const model::Decoder& decoder = *runtime->decoder_;
    if (!decoder.recording_failure().ok()) {
      spdlog::warn("steps are not recorded, which makes decoding slower: {}",
                   std::string(decoder.recording_failure().message()));
    } else if (decoder.recorded_steps() > 0) {
      spdlog::info("recorded {} steps for replay, {} of the GPU", decoder.recorded_steps(),
                   Mebibytes(decoder.recorded_bytes()));
    }
    runtime->runner_ = std::make_unique<engine::ModelRunner>(
        runtime->decoder_.get(), runtime->collectives_.channel.get(), runtime->communicator_);
  }
  return runtime;
}

absl::Status RankRuntime::Bind(const parallel::MpiWorld* world, const RankOptions& options) {
  const absl::StatusOr<Topology> topology = Topology::Load();
  RankCpus mine = {.allowed = AllowedCpus(), .threads = options.threads};
  decoder_options_.stream_cpus = mine.allowed;  // beside threads that are bound below
  const int usable = plan::AvailableCpus();
  if (usable < static_cast<int>(mine.allowed.size())) {
    mine.quota = std::max(1, usable / options.memory.count);
  }
  if (topology.ok()) mine.allowed = CpusOfShare(*topology, mine.allowed, options.cpus);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          start_->AllGatherBytes(absl::StrCat(mine.threads, " ", mine.quota, " ",
                                                              absl::StrJoin(mine.allowed, " "))));
  std::vector<RankCpus> ranks;  // of this host
  size_t place = 0;
  for (int r = 0; r < tp(); ++r) {
    if (world != nullptr && world->host_of()[r] != world->host_of()[rank()]) continue;
    if (r == rank()) place = ranks.size();
    std::vector<int> numbers;
    for (const auto word : absl::StrSplit(all[r], ' ')) {
      int number = 0;
      TANDEM_CHECK(absl::SimpleAtoi(word, &number));
      numbers.push_back(number);
    }
    ranks.push_back({.allowed = std::vector<int>(numbers.begin() + 2, numbers.end()),
                     .threads = numbers[0],
                     .quota = numbers[1]});
  }
  local_rank_ = options.memory.index * local_size_ + static_cast<int>(place);
  if (topology.ok()) {
    binding_ = BindRanks(*topology, ranks, options.bind)[place];
  } else {
    binding_.threads = options.threads > 0 ? options.threads : std::max(1, usable / host_ranks_);
    binding_.description = absl::StrCat(binding_.threads, " threads, not bound (",
                                        std::string(topology.status().message()), ")");
  }
  // Weights are first touched by this thread and those that it starts: memory of its node.
  if (!binding_.cpus.empty()) {
    if (const absl::Status bound = BindThisThread(binding_.cpus[0]); !bound.ok()) {
      // The kernels' threads would be refused alike.
      binding_.cpus.clear();
      binding_.description = absl::StrCat(binding_.threads, " threads, not bound (",
                                          std::string(bound.message()), ")");
    }
  }
  TANDEM_ASSIGN_OR_RETURN(bindings_, start_->AllGatherBytes(binding_.description));
  return absl::OkStatus();
}

absl::Status RankRuntime::Prepare(const RankOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(folder_, loader::ModelFolder::Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(config_, loader::ReadConfig(*folder_));
  TANDEM_ASSIGN_OR_RETURN(generation_, loader::ReadGenerationConfig(*folder_));
  TANDEM_ASSIGN_OR_RETURN(checkpoint_, loader::Checkpoint::Open(*folder_));
  // Shapes are checked before anything is sized by them.
  TANDEM_RETURN_IF_ERROR(
      checkpoint_->CheckPresent(model::ExpectedTensors(config_, checkpoint_.get())));
  TANDEM_ASSIGN_OR_RETURN(
      decoder_options_.weights,
      model::WeightRequests::Parse(options.dtype, options.group_size, options.head_dtype));
  if (config_.quantization && rank() == 0) {
    for (const std::string& warning : config_.quantization->warnings()) spdlog::warn("{}", warning);
    const auto& tensors = checkpoint_->ListTensors();
    const auto scale = std::ranges::find_if(
        tensors, [](const loader::TensorInfo& info) { return loader::IsKvScale(info.name); });
    if (config_.quantization->method() == "fp8" && scale != tensors.end()) {
      spdlog::warn("{} and its like are not followed: the KV cache has --kv-dtype", scale->name);
    }
  }
  const model::WeightFormat embedding =
      model::StoredFormat(config_, *checkpoint_, model::EmbeddingModule(config_));
  TANDEM_ASSIGN_OR_RETURN(
      kv_dtype_, KvDType(options.kv_dtype, embedding.quant ? config_.dtype : embedding.dtype));
  TANDEM_ASSIGN_OR_RETURN(shard_weights_, ShardWeights(options.shards, tp()));
  TANDEM_RETURN_IF_ERROR(MakeBackend(options));
  const model::WeightRequests& weights = decoder_options_.weights;
  TANDEM_RETURN_IF_ERROR(weights.Check(*backend_));
  const auto held = [&](const model::HeldMatrix& matrix) {
    return model::FormatName(model::HeldFormat(config_, *checkpoint_, matrix, weights, *backend_));
  };
  weight_format_ = held(model::LayerMatrix(config_, 0, model::MatrixRole::kGateUp));
  head_format_ = held(model::HeadMatrix(config_));
  if (options.max_model_len > config_.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max-model-len: found ", options.max_model_len, ", expected at most ",
                     config_.max_position_embeddings, ", the model's max_position_embeddings"));
  }
  return absl::OkStatus();
}

absl::Status RankRuntime::MakeBackend(const RankOptions& options) {
  if (options.device == "cuda") {
    if (!options.packed_cache.empty()) {
      return absl::InvalidArgumentError(
          "--packed-cache: found a folder, expected none with --device cuda, whose weights are "
          "not kept; leave it out");
    }
    TANDEM_ASSIGN_OR_RETURN(backend_,
                            kernels::MakeCudaBackend({.device = local_rank_,
                                                      .deterministic = options.deterministic,
                                                      .load_threads = binding_.threads,
                                                      .load_cpus = binding_.cpus}));
    return absl::OkStatus();
  }
  auto backend = kernels::MakeCpuBackend(
      options.isa,
      {.threads = binding_.threads, .cpus = binding_.cpus, .spin = binding_.own_cores});
  if (!backend.ok()) {
    return absl::Status(backend.status().code(),
                        absl::StrCat("--", std::string(backend.status().message())));
  }
  backend_ = *std::move(backend);
  return absl::OkStatus();
}

uint64_t RankRuntime::FreeMemory() const {
  if (const auto gpu = backend_->device_memory()) {
    return gpu->free / plan::RanksOnGpu(gpus_, rank());
  }
  return plan::AvailableMemory() / host_ranks_;
}

// Ranks must mean the same model, instruction set and options, or their numbers
// would not fit together.
absl::Status RankRuntime::CheckAgreement(const RankOptions& options) {
  const std::string mine =
      absl::StrJoin({absl::StrCat("model ", absl::Hex(checkpoint_->Identity())),
                     absl::StrCat("build ", BuildId()),
                     absl::StrCat("instruction set ", kernels::IsaInUse(options.isa)),
                     absl::StrCat("--device ", options.device),
                     absl::StrCat(options.deterministic ? "" : "no ", "--deterministic"),
                     absl::StrCat("weights ", weight_format_), absl::StrCat("head ", head_format_),
                     absl::StrCat("KV type ", std::string(kernels::KvDTypeName(kv_dtype_))),
                     absl::StrCat("--shards ", options.shards),
                     absl::StrCat("--max-model-len ", options.max_model_len),
                     absl::StrCat("--kv-memory ", options.kv_memory),
                     absl::StrCat("--max-num-seqs ", options.max_num_seqs),
                     absl::StrCat("--max-batched-tokens ", options.max_batched_tokens),
                     absl::StrCat(options.packed_cache.empty() ? "no " : "a ", "packed cache"),
                     absl::StrCat("--weights ", options.stream_weights ? "stream" : "resident"),
                     absl::StrCat("--collectives ", static_cast<int>(options.collectives)),
                     absl::StrCat("--gpu-collectives ", options.gpu_collectives)},
                    "\n");
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all, communicator_->AllGatherBytes(mine));
  for (size_t rank = 1; rank < all.size(); ++rank) {
    if (all[rank] != all[0]) return Differs(rank, all[rank], all[0]);
  }
  TANDEM_ASSIGN_OR_RETURN(places_, GatherPlaces(*communicator_));
  const auto gpu = backend_->device_memory();
  TANDEM_ASSIGN_OR_RETURN(gpus_, communicator_->AllGatherBytes(
                                     gpu ? absl::StrCat(places_[rank()].host, " ", gpu->id) : ""));
  if (gpu) gpu_free_ = gpu->free;
  return absl::OkStatus();
}

// Each rank its share of the model.
absl::Status RankRuntime::CutShards(const RankOptions& options) {
  if (options.shards == "auto") {
    // Of the host's free memory, its ranks have equal parts.
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            communicator_->AllGatherBytes(Pack(FreeMemory())));
    std::vector<uint64_t> memory;
    for (const std::string& theirs : all) memory.push_back(Unpack<uint64_t>(theirs));
    shard_weights_ = plan::SharesByMemory(memory);
    if (rank() == 0) {
      const auto [least, most] = std::minmax_element(shard_weights_.begin(), shard_weights_.end());
      spdlog::info("shards in proportion to free memory: {}",
                   *most == *least ? "all alike" : absl::StrJoin(shard_weights_, " : ") + " MiB");
    }
  }
  shards_ = parallel::ShardPlan::Make(model::ShapeOf(config_), shard_weights_);
  return absl::OkStatus();
}

absl::Status RankRuntime::MakeCollectives(const parallel::MpiWorld* world,
                                          const RankOptions& options) {
  if (tp() == 1) {
    collectives_.communicator = std::make_unique<parallel::SelfCommunicator>();
  } else {
    TANDEM_ASSIGN_OR_RETURN(collectives_,
                            parallel::MakeCollectives(*world, *start_, world->host_of(),
                                                      {.choice = options.collectives,
                                                       .timeouts = options.timeouts,
                                                       .shm = {.spin = binding_.own_cores}}));
    communicator_ = &collectives_.communicator->control();
  }
  untimed_ = collectives_.communicator.get();
  if (timer_ != nullptr) {
    collectives_.communicator =
        std::make_unique<parallel::TimedCommunicator>(std::move(collectives_.communicator), timer_);
  }
  if (rank() == 0) {
    if (!collectives_.fallback.empty()) {
      spdlog::warn("collectives over MPI alone: {}", collectives_.fallback);
    }
  }
  return absl::OkStatus();
}

absl::Status RankRuntime::SizeCache(const RankOptions& options) {
  // One run's tokens need no larger step than they are.
  const int64_t step_tokens =
      options.used_context > 0
          ? std::min(options.max_batched_tokens, options.used_context * options.max_num_seqs)
          : options.max_batched_tokens;
  decoder_options_.kv_dtype = kv_dtype_;
  decoder_options_.max_tokens = step_tokens;
  // No more than tokens in a step.
  decoder_options_.max_rows =
      std::min(step_tokens, options.max_rows > 0 ? options.max_rows : options.max_num_seqs);
  decoder_options_.timer = options.timer;
  int64_t context =
      options.max_model_len > 0 ? options.max_model_len : config_.max_position_embeddings;
  if (options.used_context > 0) context = std::min(context, options.used_context);
  const int64_t sequence_blocks = (context + model::kBlockSize - 1) / model::kBlockSize;
  decoder_options_.max_sequences = std::min(step_tokens, options.max_num_seqs);
  decoder_options_.max_blocks = sequence_blocks;
  decoder_options_.recorded_sequences = options.max_num_seqs;
  decoder_options_.layers = model::LayersOf(options.stream_weights, !backend_->memory_is_host());
  const model::DecoderBytes bytes =
      model::Decoder::Plan(config_, *checkpoint_, shards_, rank(), *backend_, decoder_options_);
  plan_.weights = bytes.weights;
  plan_.streamed = bytes.streamed;
  plan_.present = bytes.present;
  plan_.workspace = bytes.workspace;
  plan_.communication = plan::CommunicationBytes(shards_, rank(), decoder_options_);
  plan_.process = plan::ResidentBytes();
  if (const auto gpu = backend_->device_memory()) {
    plan::AddGpuBytes(shards_, decoder_options_, backend_->KeepsLeafTree(), gpu->scratch, &plan_);
  }
  TANDEM_RETURN_IF_ERROR(CheckMemory());
  const uint64_t block_bytes = plan::KvBlockBytes(config_, shards_, rank(), kv_dtype_);

  // Blocks for every sequence at full length are the most that can be of use.
  const int64_t useful = sequence_blocks * options.max_num_seqs;
  int64_t blocks = useful;
  if (block_bytes > 0) {
    uint64_t memory = options.kv_memory;
    if (memory == 0) {
      const uint64_t share = FreeMemory();
      const double kv_share = backend_->memory_is_host() ? kKvShare : kGpuKvShare;
      const uint64_t taken =
          plan_.weights + plan_.workspace +
          (plan_.on_gpu ? plan_.graphs + plan_.collectives : plan_.communication);
      memory = share > taken ? static_cast<uint64_t>((share - taken) * kv_share) : 0;
    }
    blocks = std::min<int64_t>(useful, static_cast<int64_t>(memory / block_bytes));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator_->AllGatherBytes(Pack(blocks)));
  for (const std::string& theirs : all) blocks = std::min(blocks, Unpack<int64_t>(theirs));
  if (blocks < 1 || (options.max_model_len > 0 && blocks < sequence_blocks)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV cache: a context of ", context, " tokens needs ",
                     Mebibytes(sequence_blocks * block_bytes), " a rank, there is room for ",
                     blocks * model::kBlockSize,
                     " tokens; give a smaller --max-model-len, more --kv-memory or "
                     "more ranks"));
  }
  num_blocks_ = blocks;
  max_model_len_ = std::min(context, blocks * model::kBlockSize);
  decoder_options_.num_blocks = blocks;
  plan_.kv = blocks * block_bytes;
  if (max_model_len_ < context && rank() == 0) {
    spdlog::warn("the KV cache holds {} tokens: contexts are limited to that, not the model's {}",
                 max_model_len_, context);
  }
  return absl::OkStatus();
}

absl::Status RankRuntime::CheckMemory() {
  if (const auto gpu = backend_->device_memory()) {
    const uint64_t needed = plan_.gpu() - plan_.scratch;  // which is taken already
    TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                            communicator_->AllGatherBytes(Pack(needed)));
    uint64_t together = 0;
    for (size_t r = 0; r < all.size(); ++r) {
      if (gpus_[r] == gpus_[rank()]) together += Unpack<uint64_t>(all[r]);
    }
    absl::Status fits;
    if (together > gpu->free) {
      fits = absl::ResourceExhaustedError(absl::StrCat(
          "memory: this rank needs ", Mebibytes(needed), " of its GPU, ", Mebibytes(plan_.kv),
          " of them for the KV cache, the ranks on it ", Mebibytes(together),
          " together; free are ", Mebibytes(gpu->free), " beside the kernels' ",
          Mebibytes(gpu->scratch), "; use more GPUs, a smaller format or less --kv-memory"));
    }
    TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(*communicator_, fits));
  }
  // Measured while nobody has loaded: the first ranks' weights would count against the others.
  const uint64_t available = plan::AvailableMemory();
  const uint64_t needed = plan_.host() - plan_.process;  // the process is here already
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator_->AllGatherBytes(Pack(needed)));
  uint64_t together = 0;
  for (size_t r = 0; r < all.size(); ++r) {
    if (places_[r].host == places_[rank()].host) together += Unpack<uint64_t>(all[r]);
  }
  together *= static_cast<uint64_t>(host_ranks_ / local_size_);
  absl::Status status;
  if (together > available) {
    const std::string most =
        plan_.on_gpu ? absl::StrCat(" of its host, ", Mebibytes(plan_.pinned), " of them pinned")
                     : absl::StrCat(", ", Mebibytes(plan_.kv), " of them for the KV cache");
    status = absl::ResourceExhaustedError(absl::StrCat(
        "memory: this rank needs ", Mebibytes(needed), most, ", the ranks of this host ",
        Mebibytes(together), " together; free are ", Mebibytes(available),
        "; use more ranks on other hosts",
        plan_.on_gpu ? " or a smaller format" : ", a smaller format or less --kv-memory"));
  }
  return parallel::AgreeOnStatus(*communicator_, status);
}

absl::Status RankRuntime::MakeDeviceCollectives(const RankOptions& options) {
  if (backend_->memory_is_host()) return absl::OkStatus();
  const plan::DeviceMessages messages =
      plan::DeviceMessagesOf(shards_, decoder_options_, backend_->KeepsLeafTree());
  std::vector<parallel::AllReduceTrial> trials;
  // Untimed: a stream calls it from a thread of CUDA's, and the timer is this thread's.
  TANDEM_ASSIGN_OR_RETURN(device_, parallel::MakeDeviceCommunicator(
                                       *untimed_,
                                       {.stream = kernels::CudaBackend::Of(*backend_).stream(),
                                        .max_floats = messages.max_floats,
                                        .max_gathered = messages.max_gathered,
                                        .step_timeout = options.timeouts.step,
                                        .deterministic = options.deterministic,
                                        .way = options.gpu_collectives},
                                       &trials));
  for (const parallel::AllReduceTrial& trial : trials) {
    if (rank() != 0) break;
    if (trial.status.ok()) {
      spdlog::debug("all-reduce between GPUs, {} of {} KiB: {:.1f} us", trial.way,
                    trial.count * sizeof(float) / 1024, trial.microseconds);
    } else {
      spdlog::warn("all-reduce between GPUs: does without {}: {}", trial.way,
                   std::string(trial.status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status RankRuntime::LoadDecoder(const RankOptions& options) {
  file_bytes_ = plan::PresentFileBytes();
  parallel::Communicator* const of_steps =
      device_ ? device_.get() : collectives_.communicator.get();
  TANDEM_ASSIGN_OR_RETURN(decoder_, model::Decoder::Load(config_, std::move(checkpoint_), shards_,
                                                         *backend_, *of_steps, decoder_options_));
  peak_.Sample();
  spdlog::debug(
      "rank {}: {} threads of {}, weights {}, head {}, {} read, planned {}: weights {}, KV {}, "
      "workspace {}, communication {}, process {}",
      rank(), binding_.threads, kernels::IsaInUse(options.isa), weight_format_, head_format_,
      Mebibytes(decoder_->bytes_read()), Mebibytes(plan_.total()), Mebibytes(plan_.weights),
      Mebibytes(plan_.kv), Mebibytes(plan_.workspace), Mebibytes(plan_.communication),
      Mebibytes(plan_.process));
  return absl::OkStatus();
}

const std::vector<int32_t>& RankRuntime::eos_token_ids() const {
  return generation_.eos_token_ids.empty() ? config_.eos_token_ids : generation_.eos_token_ids;
}

absl::Status RankRuntime::Work() {
  return engine::RunWorker(*decoder_, *collectives_.channel, *communicator_, timer_);
}

absl::Status RankRuntime::GatherRanks() {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> plans,
                          communicator_->AllGatherBytes(Pack(plan_)));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> measured,
                          communicator_->AllGatherBytes(Pack(plan::ResidentBytes())));
  std::vector<plan::MemoryPlan> planned;
  for (const std::string& plan : plans) planned.push_back(Unpack<plan::MemoryPlan>(plan));
  gpu_taken_ = CheckGpuMemory(planned);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> taken,
                          communicator_->AllGatherBytes(Pack(gpu_taken_)));
  for (size_t i = 0; i < plans.size(); ++i) {
    ranks_.push_back({.host = places_[i].host,
                      .pid = places_[i].pid,
                      .planned = planned[i],
                      .measured_bytes = Unpack<uint64_t>(measured[i]),
                      .loaded_bytes = Unpack<uint64_t>(measured[i]),
                      .gpu_bytes = Unpack<uint64_t>(taken[i])});
  }
  return absl::OkStatus();
}

uint64_t RankRuntime::CheckGpuMemory(const std::vector<plan::MemoryPlan>& plans) const {
  const auto gpu = backend_->device_memory();
  if (!gpu) return 0;
  uint64_t planned = 0;
  for (size_t r = 0; r < plans.size(); ++r) {
    if (gpus_[r] == gpus_[rank()]) planned += plans[r].gpu() - plans[r].scratch;
  }
  const uint64_t taken = gpu_free_ - std::min(gpu_free_, gpu->free);
  spdlog::log(taken > planned ? spdlog::level::warn : spdlog::level::info,
              "GPU memory: planned {}, taken {}, by {} rank(s); recorded steps have {} of {}",
              Mebibytes(planned), Mebibytes(taken), plan::RanksOnGpu(gpus_, rank()),
              Mebibytes(decoder_->recorded_bytes()), Mebibytes(plan_.graphs));
  return taken;
}

std::vector<server::RankInfo> RankRuntime::DescribeRanks() const {
  std::vector<server::RankInfo> ranks = ranks_;
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (places_[i].pid_namespace != places_[0].pid_namespace) continue;
    const uint64_t now = plan::ResidentBytes(places_[i].pid);
    ranks[i].seen = true;
    ranks[i].ended = now == 0;
    if (now > 0) ranks[i].measured_bytes = now;
  }
  return ranks;
}

absl::StatusOr<std::vector<RankReport>> RankRuntime::GatherReports() {
  peak_.Sample();
  // Of streamed weights the last layer and the first are present now.
  const bool from_file = decoder_options_.layers == model::LayersIn::kFile;
  const uint64_t file_bytes = from_file ? plan::PresentFileBytes() : 0;
  const RankReport mine = {
      .bytes_read = decoder_->bytes_read(),
      .planned_bytes = plan_.host(),
      .peak_memory = peak_.bytes() + file_bytes - std::min(file_bytes, file_bytes_),
      .planned_gpu = plan_.gpu(),
      .gpu_memory = gpu_taken_ > 0 ? gpu_taken_ + plan_.scratch : 0};
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> all,
                          communicator_->AllGatherBytes(Pack(mine)));
  std::vector<RankReport> reports;
  for (const std::string& bytes : all) reports.push_back(Unpack<RankReport>(bytes));
  return reports;
}

}  // namespace tandem::rank
