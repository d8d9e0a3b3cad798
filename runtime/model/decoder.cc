#include "runtime/model/decoder.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/base/check.h"
#include "kernels/base/status_macros.h"
#include "kernels/trace_range.h"
#include "parallel/all_gather.h"
#include "runtime/loader/rope_frequencies.h"
#include "runtime/model/model_tensors.h"

namespace tandem::model {

using parallel::StepPart;

namespace {

// "step: 3 sequences decode, 500 tokens of 2 prefill".
std::string Describe(const StepInput& input) {
  int32_t decoding = 0;
  for (int32_t s = 0; s < input.num_sequences(); ++s) {
    const int32_t tokens = input.cu_seqlens_q[s + 1] - input.cu_seqlens_q[s];
    decoding += tokens == 1 && input.context_lens[s] > 1 ? 1 : 0;
  }
  return absl::StrCat("step: ", decoding, " sequences decode, ", input.num_tokens() - decoding,
                      " tokens of ", input.num_sequences() - decoding, " prefill");
}

}  // namespace

Decoder::Decoder(const loader::ModelConfig& config, std::unique_ptr<loader::Checkpoint> checkpoint,
                 parallel::ShardPlan plan, kernels::Backend& backend,
                 parallel::Communicator& communicator, const DecoderOptions& options)
    : config_(config),
      checkpoint_(std::move(checkpoint)),
      plan_(std::move(plan)),
      shard_(plan_.ranks[communicator.rank()]),
      backend_(backend),
      communicator_(communicator),
      options_(options) {
  const bool leaves = backend.KeepsLeafTree();
  const parallel::TreeLayout of_ranks = parallel::TreeLayout::OfRanks(plan_.tp);
  attention_sum_ = communicator.PlanReduce(leaves ? plan_.attention_tree : of_ranks);
  ffn_sum_ = communicator.PlanReduce(leaves ? plan_.ffn_tree : of_ranks);
}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Load(
    const loader::ModelConfig& config, std::unique_ptr<loader::Checkpoint> checkpoint,
    parallel::ShardPlan plan, kernels::Backend& backend, parallel::Communicator& communicator,
    const DecoderOptions& options) {
  TANDEM_CHECK(plan.tp == communicator.size());
  std::unique_ptr<Decoder> decoder(
      new Decoder(config, std::move(checkpoint), std::move(plan), backend, communicator, options));
  const kernels::TraceRange range(backend, "load");
  TANDEM_RETURN_IF_ERROR(decoder->LoadWeights());
  TANDEM_ASSIGN_OR_RETURN(decoder->kv_cache_,
                          KvCache::Allocate(backend, {.layers = config.num_layers,
                                                      .blocks = options.num_blocks,
                                                      .kv_heads = decoder->shard_.kv_heads.size(),
                                                      .head_dim = config.head_dim,
                                                      .dtype = options.kv_dtype}));
  Workspace& workspace = decoder->workspace_;
  TANDEM_ASSIGN_OR_RETURN(workspace.memory, backend.Allocate(Workspace::Layout(
                                                config, decoder->plan_, communicator.rank(),
                                                backend, options, nullptr)));
  Workspace::Layout(config, decoder->plan_, communicator.rank(), backend, options, &workspace);
  const std::vector<float> frequencies = loader::InverseFrequencies(config.rope, config.head_dim);
  backend.CopyFromHost(workspace.inverse_frequencies, frequencies.data(),
                       frequencies.size() * sizeof(float));
  decoder->step_memory_ = StepMemory(backend, options.step_limits(), workspace.step);
  if (backend.sampling() != nullptr) {
    decoder->sampling_ = std::make_unique<RowSampling>(backend, communicator, decoder->plan_,
                                                       options.max_rows, workspace.sampling);
  }
  backend.Synchronize();
  TANDEM_RETURN_IF_ERROR(backend.status());
  return decoder;
}

absl::Status Decoder::Forward(const StepInput& input, float* logits) {
  const int64_t tokens = input.num_tokens();
  TANDEM_CHECK(tokens <= options_.max_tokens && input.num_rows() <= options_.max_rows);
  if (options_.timer != nullptr) options_.timer->BeginStep();
  const kernels::TraceRange range(backend_, backend_.memory_is_host() ? "" : Describe(input));
  Enter(StepPart::kEmbedding);
  TANDEM_RETURN_IF_ERROR(embedding_->Lookup(backend_, input.token_ids.data(), tokens,
                                            config_.hidden_size, workspace_.residual));
  if (const RecordedStep* recorded = FindRecorded(input)) {
    LeaveParts();
    const kernels::TraceRange replay(backend_, "replay");
    step_memory_.PlaceSingles(input, recorded->sequences, recorded->context);
    backend_.recorder()->Replay(*recorded->recording);
    ++replayed_;
  } else {
    TANDEM_RETURN_IF_ERROR(RunLayers(step_memory_.Place(input)));
  }
  step_rows_ = input.num_rows();
  if (input.sampling.empty()) {
    const kernels::TraceRange gather(backend_, "gather");
    return communicator_.GatherColumns(workspace_.logits, step_rows_, plan_.vocab_widths, logits);
  }
  if (sampling_ == nullptr) return absl::InternalError("step: this backend surveys no rows");
  const kernels::TraceRange sampling(backend_, "sampling");
  TANDEM_RETURN_IF_ERROR(sampling_->Survey(input.sampling, workspace_.logits));
  whole_rows_.clear();
  for (int32_t row = 0; row < step_rows_; ++row) {
    if (input.sampling[row].kind == kernels::SampleKind::kWhole) whole_rows_.push_back(row);
  }
  return GatherRows(whole_rows_, logits);
}

absl::Status Decoder::GatherRows(std::span<const int32_t> rows, float* logits) {
  if (!rows.empty() && rows.back() >= step_rows_) {
    return absl::InternalError(
        absl::StrCat("step: row ", rows.back(), " of ", step_rows_, " is asked for"));
  }
  // Neighbours together.
  for (size_t begin = 0, end; begin < rows.size(); begin = end) {
    end = begin + 1;
    while (end < rows.size() && rows[end] == rows[end - 1] + 1) ++end;
    const int64_t first = rows[begin];
    TANDEM_RETURN_IF_ERROR(communicator_.GatherColumns(
        workspace_.logits + first * shard_.vocab.size(), static_cast<int64_t>(end - begin),
        plan_.vocab_widths, logits == nullptr ? nullptr : logits + first * config_.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status Decoder::RecordSteps() {
  if (!options_.records() || backend_.recorder() == nullptr) return absl::OkStatus();
  const StepLimits limits = options_.step_limits();
  const int64_t most =
      std::min({options_.recorded_sequences, limits.tokens, limits.sequences, limits.rows});
  const int64_t longest = limits.blocks * kBlockSize;
  const auto free_memory = [this] {
    return backend_.device_memory().value_or(kernels::DeviceMemoryUse()).free;
  };
  parallel::ControlGroup& control = communicator_.control();
  const absl::Time start = absl::Now();
  for (int64_t sequences = 1; sequences <= most; sequences *= 2) {
    for (int64_t context = std::min<int64_t>(longest, 1024);;
         context = std::min(4 * context, longest)) {
      const kernels::TraceRange range(
          backend_, absl::StrCat("record: ", sequences, " sequences, ", context, " positions"));
      const PlacedStep step = step_memory_.PlaceSingles({}, sequences, context);
      TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(control, RunAlone(step)));
      const uint64_t before = free_memory();
      auto recording = backend_.recorder()->Record([&] { return RunLayers(step); });
      recording_failure_ = parallel::AgreeOnStatus(control, recording.status());
      if (!recording_failure_.ok()) {
        recorded_.clear();
        return parallel::AgreeOnStatus(control, backend_.status());
      }
      recorded_.push_back({sequences, context, *std::move(recording)});
      const uint64_t free = free_memory();
      recorded_bytes_ += before - std::min(free, before);
      // A rank that replays and one that issues do not meet: padding is added up, too, and
      // NCCL wants captured collectives from all ranks or none.
      const bool spent = absl::Now() - start > options_.recording.time ||
                         recorded_bytes_ > options_.recording.bytes;
      TANDEM_ASSIGN_OR_RETURN(const std::vector<bool> all, parallel::AllGather(control, spent));
      if (std::find(all.begin(), all.end(), true) != all.end()) return absl::OkStatus();
      if (context == longest) break;
    }
  }
  return absl::OkStatus();
}

absl::Status Decoder::RunAlone(const PlacedStep& step) {
  TANDEM_RETURN_IF_ERROR(RunLayers(step));
  TANDEM_RETURN_IF_ERROR(communicator_.Await());
  backend_.Synchronize();
  return backend_.status();
}

const Decoder::RecordedStep* Decoder::FindRecorded(const StepInput& input) const {
  // One token of each sequence, and the logits of each.
  const int32_t tokens = input.num_tokens();
  if (recorded_.empty() || input.num_sequences() != tokens || input.num_rows() != tokens) {
    return nullptr;
  }
  for (int32_t i = 0; i < tokens; ++i) {
    if (input.logits_indices[i] != i) return nullptr;
  }
  const int64_t context = *std::max_element(input.context_lens.begin(), input.context_lens.end());
  for (const RecordedStep& step : recorded_) {
    if (step.sequences >= tokens && step.context >= context) return &step;
  }
  return nullptr;
}

void Decoder::Enter(StepPart part) {
  EnterPart(options_.timer, part);
  LeaveParts();
  backend_.PushRange(StepPartName(part).data());  // a literal
  in_part_ = true;
}

void Decoder::LeaveParts() {
  if (in_part_) backend_.PopRange();
  in_part_ = false;
}

absl::Status Decoder::RunLayers(const PlacedStep& step) {
  const int64_t tokens = step.tokens;
  Workspace& w = workspace_;
  backend_.RopeAngles(step.positions, tokens, w.inverse_frequencies, config_.head_dim / 2,
                      static_cast<float>(config_.rope.attention_factor), w.cos, w.sin);

  if (stream_ != nullptr) TANDEM_RETURN_IF_ERROR(stream_->Enter(0));
  Enter(StepPart::kQkv);
  backend_.AddRmsNorm(nullptr, nullptr, w.residual, layers_.front().input_norm.as<float>(),
                      static_cast<float>(config_.rms_norm_eps), tokens, config_.hidden_size,
                      w.normed);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    Attention(layer, static_cast<int64_t>(i), step);
    Enter(StepPart::kFfn);
    TANDEM_RETURN_IF_ERROR(AddAndNorm(layer.output, attention_sum_, layer.post_norm, tokens));
    FeedForward(layer, tokens);
    const bool last = i + 1 == layers_.size();
    if (stream_ != nullptr) TANDEM_RETURN_IF_ERROR(stream_->Enter(i + 1));
    Enter(last ? StepPart::kHead : StepPart::kQkv);
    TANDEM_RETURN_IF_ERROR(
        AddAndNorm(layer.down, ffn_sum_, last ? final_norm_ : layers_[i + 1].input_norm, tokens));
  }

  backend_.GatherRows(w.normed, step.logits_indices, step.rows, config_.hidden_size, w.rows);
  head_.Forward(backend_, w.rows, step.rows, w.logits);
  LeaveParts();
  return absl::OkStatus();
}

void Decoder::Attention(const Layer& layer, int64_t index, const PlacedStep& step) {
  Workspace& w = workspace_;
  const int64_t tokens = step.tokens;
  const int64_t heads = shard_.heads.size();
  const kernels::KvCacheView cache = kv_cache_.layer(index);
  layer.qkv.Forward(backend_, w.normed, tokens, w.qkv);
  Enter(StepPart::kAttention);
  backend_.RopeAndCache({.tokens = tokens,
                         .q_heads = heads,
                         .head_dim = config_.head_dim,
                         .qkv = w.qkv,
                         .q_norm = layer.q_norm.as<float>(),
                         .k_norm = layer.k_norm.as<float>(),
                         .norm_epsilon = static_cast<float>(config_.rms_norm_eps),
                         .cos = w.cos,
                         .sin = w.sin,
                         .slot_mapping = step.slot_mapping,
                         .cache = cache});
  backend_.PagedAttention({.tokens = tokens,
                           .q_heads = heads,
                           .head_dim = config_.head_dim,
                           .qkv = w.qkv,
                           .qkv_stride = layer.qkv.rows(),
                           .positions = step.positions,
                           .token_sequence = step.token_sequence,
                           .block_tables = step.block_tables,
                           .max_blocks = step.max_blocks,
                           .head_to_kv = shard_.head_to_kv.data(),
                           .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
                           .cache = cache,
                           .out = w.attention,
                           .single_tokens = step.single_tokens,
                           .single_context = step.single_context});
  Enter(StepPart::kOutput);
  layer.output.Forward(backend_, w.attention, tokens, Partials());
}

void Decoder::FeedForward(const Layer& layer, int64_t tokens) {
  Workspace& w = workspace_;
  layer.gate_up.Forward(backend_, w.normed, tokens, w.gate_up);
  backend_.SiluMul(w.gate_up, tokens, shard_.ffn.size(), w.activated);
  layer.down.Forward(backend_, w.activated, tokens, Partials());
}

absl::Status Decoder::AddAndNorm(const parallel::RowParallelLinear& product,
                                 parallel::ReducePlan plan, const kernels::Buffer& norm,
                                 int64_t tokens) {
  const Workspace& w = workspace_;
  return parallel::AllReduceAddRmsNorm(communicator_, backend_, plan, Partials(),
                                       {.delta_bias = product.bias(),
                                        .residual = w.residual,
                                        .weight = norm.as<float>(),
                                        .epsilon = static_cast<float>(config_.rms_norm_eps),
                                        .tokens = tokens,
                                        .hidden = config_.hidden_size,
                                        .out = w.normed},
                                       w.delta);
}

DecoderBytes Decoder::bytes() const {
  return {.weights = weight_bytes_ + (stream_ == nullptr ? 0 : stream_->present_bytes()),
          .embedding = embedding_->held_bytes(),
          .kv = kv_cache_.bytes(),
          .workspace = workspace_.memory.bytes(),
          .streamed = stream_ == nullptr ? 0 : stream_->layer_bytes(),
          .present = stream_ == nullptr ? 0 : stream_->present_bytes()};
}

}  // namespace tandem::model
